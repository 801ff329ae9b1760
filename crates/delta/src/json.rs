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
