//! JSON text as `jsonb`'s output function writes it: `": "` and `", "` between the parts, members
//! ordered by the length of their name, then by its bytes.

/// Appends a JSON string.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let (mut done, mut i) = (0, plain(text));
    while let Some(&byte) = text.get(i) {
        out.extend_from_slice(&text[done..i]);
        done = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        i = done + plain(&text[done..]);
    }
    out.extend_from_slice(&text[done..]);
    out.push(b'"');
}

/// How many bytes at the beginning stand for themselves.
fn plain(text: &[u8]) -> usize {
    let is_plain = |byte: u8| (byte >= 0x20) & (byte != b'"') & (byte != b'\\');
    // Whole blocks first, without a branch for each byte.
    let blocks = text.chunks_exact(32).take_while(|block| block.iter().fold(true, |all, &byte| all & is_plain(byte)));
    let start = 32 * blocks.count();
    start + text[start..].iter().take_while(|&&byte| is_plain(byte)).count()
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a `timestamp`, given in microseconds since the beginning of 2000, with the text of its offset from UTC.
pub fn timestamp(out: &mut Vec<u8>, micros: i64, offset: &str) {
    const DAY: i64 = 86_400_000_000;
    if is_infinite(out, micros, i64::MIN, i64::MAX) {
        return;
    }
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let mut text = Text::new();
    let is_past = text.date(days);
    text.pair(b'T', seconds / 3600);
    text.pair(b':', seconds / 60 % 60);
    text.pair(b':', seconds % 60);
    if fraction > 0 {
        text.pair(b'.', fraction / 10_000);
        text.two(fraction / 100 % 100);
        text.two(fraction % 100);
        text.trim_zeros();
    }
    text.put(offset.as_bytes());
    text.end(is_past, out);
}

/// Appends a `date`, given in days since the beginning of 2000.
pub fn date(out: &mut Vec<u8>, days: i32) {
    if is_infinite(out, days, i32::MIN, i32::MAX) {
        return;
    }
    let mut text = Text::new();
    let is_past = text.date(i64::from(days));
    text.end(is_past, out);
}

fn is_infinite<T: PartialEq>(out: &mut Vec<u8>, value: T, first: T, last: T) -> bool {
    let text: &[u8] = match () {
        () if value == last => b"\"infinity\"",
        () if value == first => b"\"-infinity\"",
        () => return false,
    };
    out.extend_from_slice(text);
    true
}

/// The last two digits.
fn digits(value: i64) -> [u8; 2] {
    // A byte is divided by a multiplication.
    let value = (value % 100) as u8;
    [b'0' + value / 10, b'0' + value % 10]
}

/// The text of a point in time with its quotation marks: copied once, not byte by byte.
struct Text {
    bytes: [u8; 64],
    length: usize,
}

impl Text {
    fn new() -> Self {
        let mut bytes = [0; 64];
        bytes[0] = b'"';
        Self { bytes, length: 1 }
    }

    fn put(&mut self, text: &[u8]) {
        self.bytes[self.length..][..text.len()].copy_from_slice(text);
        self.length += text.len();
    }

    /// Two digits.
    fn two(&mut self, value: i64) {
        self.put(&digits(value));
    }

    fn pair(&mut self, separator: u8, value: i64) {
        let [tens, ones] = digits(value);
        self.put(&[separator, tens, ones]);
    }

    /// Whether the year is before the first one of our count.
    fn date(&mut self, days: i64) -> bool {
        // Eras of 400 years that begin with a March: the day that leap years add is then the last one.
        let since_era = days + 730_425;
        let (era, day) = (since_era.div_euclid(146_097), since_era.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + 400 * era + i64::from(month <= 2);
        // There is no year 0.
        let shown = if year > 0 { year } else { 1 - year };
        if shown < 10_000 {
            self.two(shown / 100);
            self.two(shown % 100);
        } else {
            self.put(itoa::Buffer::new().format(shown).as_bytes());
        }
        self.pair(b'-', month);
        self.pair(b'-', day);
        year <= 0
    }

    fn trim_zeros(&mut self) {
        while self.bytes[self.length - 1] == b'0' {
            self.length -= 1;
        }
    }

    fn end(&mut self, is_past: bool, out: &mut Vec<u8>) {
        self.put(if is_past { b" BC\"" } else { b"\"" });
        out.extend_from_slice(&self.bytes[..self.length]);
    }
}

/// Appends a number given as Postgres prints it: without an exponent if it is one, and as a string if it
/// is not finite. `-0` becomes `0`, as in `jsonb`.
pub fn number(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().any(|b| matches!(b, b'N' | b'n' | b'I' | b'i')) {
        return string(out, text);
    }
    match text.iter().position(|&b| b == b'e') {
        None if text == b"-0" => out.push(b'0'),
        None => out.extend_from_slice(text),
        Some(e) => positional(out, &text[..e], &text[e + 1..]),
    }
}

fn positional(out: &mut Vec<u8>, mantissa: &[u8], exponent: &[u8]) {
    let exponent: i32 = std::str::from_utf8(exponent).ok().and_then(|e| e.parse().ok()).unwrap_or(0);
    let (sign, mantissa) = match mantissa.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, mantissa),
    };
    let point = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let digits: Vec<u8> = mantissa.iter().copied().filter(|&b| b != b'.').collect();
    let place = point as i32 + exponent;
    if sign {
        out.push(b'-');
    }
    if place <= 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', place.unsigned_abs() as usize));
        out.extend_from_slice(&digits);
    } else if (place as usize) < digits.len() {
        out.extend_from_slice(&digits[..place as usize]);
        out.push(b'.');
        out.extend_from_slice(&digits[place as usize..]);
    } else {
        out.extend_from_slice(&digits);
        out.extend(std::iter::repeat_n(b'0', place as usize - digits.len()));
    }
}

/// The order in which `jsonb` keeps the members of an object.
pub fn member_order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}
