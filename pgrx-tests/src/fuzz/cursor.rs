//! Cursors that no server gave: damaged ones, and well-formed ones with another content.

use syncline_delta::cursor::Cursor;
use syncline_delta::snapshot::Snapshot;

use crate::rng::Rng;

/// Something else than the cursor `a`, made of it and of `b`, another one.
pub fn damaged(rng: &mut Rng, a: &str, b: &str) -> String {
    let cut = |rng: &mut Rng, text: &str| rng.below(text.len() as u32 + 1) as usize;
    match rng.below(12) {
        0 => a[..cut(rng, a)].to_owned(),
        1 => {
            let mut bytes = a.as_bytes().to_vec();
            let place = rng.below(bytes.len() as u32) as usize;
            bytes[place] ^= 1 << rng.below(7);
            String::from_utf8(bytes).unwrap_or_default()
        }
        2 => format!("{}{}", &a[..cut(rng, a)], &b[cut(rng, b)..]),
        // The halves have checksums of their own: this one is well-formed.
        3 => format!("{}~{}", a.split('~').next().unwrap_or_default(), b.split('~').next_back().unwrap_or_default()),
        4 if rng.one_in(200) => "1".repeat(9 << 20),
        4 => format!("{a}{}", rng.pick(&["~", ".", " ", "\u{0}", "é", "~1.1.00000000", "\n"])),
        5 => (*rng.pick(&["", "~", "s1", "s1.", "s2.1.2.3", "s1.1.1.1.1.1.1.83dcefb7~1.1.83dcefb7", "NULL", "𝄞"]))
            .to_owned(),
        _ => a.parse::<Cursor>().map_or_else(|_| a.to_owned(), |cursor| forged(rng, cursor)),
    }
}

/// Another cursor with the right checksums.
fn forged(rng: &mut Rng, mut cursor: Cursor) -> String {
    let position = &mut cursor.position;
    for _ in 0..1 + u32::from(rng.one_in(4)) {
        let (xmax, mut xip) = (position.snapshot.xmax(), position.snapshot.xip().to_vec());
        let far = *rng.pick(&[0, 1, 3, u64::from(u32::MAX), 1 << 62, i64::MAX as u64 + 1, u64::MAX]);
        match rng.below(16) {
            0 => position.system = far,
            1 => position.database = far as u32,
            2 => position.timeline = far as u32,
            3 => position.lsn = far,
            4 => position.epoch = far,
            5 => position.snapshot = Snapshot::new(far, xip),
            6 | 11..=13 => position.snapshot = Snapshot::new(xmax.saturating_sub(u64::from(rng.below(40))), xip),
            7 | 14..=15 => {
                xip.extend((0..rng.below(20)).map(|_| xmax.saturating_sub(u64::from(rng.below(60)))));
                position.snapshot = Snapshot::new(xmax, xip);
            }
            8 => {
                position.snapshot =
                    Snapshot::new(xmax, (xmax.saturating_sub(5000)..xmax).step_by(1 + rng.below(3) as usize))
            }
            9 => cursor.identity.schema = far,
            _ => position.snapshot = Snapshot::new(u64::MAX, (0..1000).chain([u64::MAX - 1])),
        }
    }
    cursor.to_string()
}
