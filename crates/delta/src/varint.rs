//! Numbers in as few bytes as they need: seven bits each, the lowest first, and whether more follow.

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number off; nothing if the bytes end in the middle of it.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes a length off, and so many bytes.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// The bytes that tell a number with its sign, mostly zero or small: the first of these, and how many they are.
pub fn signed_bytes(word: i64) -> ([u8; 8], usize) {
    // One bit for the sign beside those that differ from it.
    let bits = 64 - (word ^ (word >> 63)).leading_zeros() as usize;
    let length = if word == 0 { 0 } else { bits / 8 + 1 };
    (word.to_le_bytes(), length)
}

/// The number that these bytes tell, of which there are at most eight.
pub fn signed(bytes: &[u8]) -> Option<i64> {
    let mut word = [0; 8];
    word.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(sign_extended(i64::from_le_bytes(word), bytes.len()))
}

fn sign_extended(word: i64, length: usize) -> i64 {
    if length == 0 { 0 } else { word << (64 - 8 * length) >> (64 - 8 * length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(numbers in prop::collection::vec(any::<u64>(), 0..5), shift in 0..64u32) {
            let mut out = Vec::new();
            for number in &numbers {
                super::put(&mut out, number >> shift);
            }
            let bytes = &mut out.as_slice();
            for number in &numbers {
                prop_assert_eq!(super::take(bytes), Some(number >> shift));
            }
            prop_assert!(super::take(bytes).is_none());
        }

        #[test]
        fn signed_numbers_are_told_by_their_last_bytes(number: i64, shift in 0..64u32) {
            let number = number >> shift;
            let (bytes, length) = super::signed_bytes(number);
            prop_assert_eq!(super::signed(&bytes[..length]), Some(number));
            if length > 0 {
                prop_assert_ne!(super::signed(&bytes[..length - 1]), Some(number), "fewer would not do");
            }
        }
    }
}
