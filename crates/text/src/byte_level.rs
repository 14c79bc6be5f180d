//! The byte alphabet of byte-level BPE: every byte is written as one printable character, so that a vocabulary can
//! be stored as text. Published with GPT-2 (`bytes_to_unicode`).

/// Bytes that stand for themselves: printable Latin-1 without the space and the soft hyphen.
const fn is_plain(b: u8) -> bool {
    matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The character that stands for each byte.
pub const CHARS: [char; 256] = {
    let mut t = ['\0'; 256];
    let (mut b, mut shifted) = (0usize, 0u32);
    while b < 256 {
        if is_plain(b as u8) {
            t[b] = b as u8 as char;
        } else {
            // The others take the characters from U+0100 on, in byte order: never a surrogate.
            t[b] = match char::from_u32(256 + shifted) {
                Some(c) => c,
                None => '\0',
            };
            shifted += 1;
        }
        b += 1;
    }
    t
};

/// The byte a character stands for.
pub fn byte_of(c: char) -> Option<u8> {
    let u = c as u32;
    if u < 256 {
        return is_plain(u as u8).then_some(u as u8);
    }
    SHIFTED.get((u - 256) as usize).copied()
}

/// The bytes written from U+0100 on, in order.
const SHIFTED: [u8; 68] = {
    let mut t = [0u8; 68];
    let (mut b, mut n) = (0usize, 0usize);
    while b < 256 {
        if !is_plain(b as u8) {
            t[n] = b as u8;
            n += 1;
        }
        b += 1;
    }
    t
};

/// Bytes in the alphabet's characters.
pub fn encode(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&b| CHARS[b as usize]));
}

/// The bytes of a token's text, or nothing if a character is not in the alphabet.
pub fn decode(text: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for c in text.chars() {
        match byte_of(c) {
            Some(b) => out.push(b),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character_and_back() {
        for b in 0..=255u8 {
            assert_eq!(byte_of(CHARS[b as usize]), Some(b));
        }
        assert_eq!(CHARS[b' ' as usize], 'Ġ');
        assert_eq!(CHARS[b'\n' as usize], 'Ċ');
        assert_eq!(byte_of('▁'), None);
        assert_eq!(byte_of(char::from_u32(256 + 68).unwrap()), None);
    }
}
