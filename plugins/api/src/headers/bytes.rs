//! What bytes names and values of fields may have (RFC 9110, sections 5.1 and 5.5), and what can be told of a name at a glance.

/// RFC 9110, section 5.6.2.
pub const fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// [`is_token_byte`] of every byte: names are looked at for each message.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_token_byte(byte as u8);
        byte += 1;
    }
    table
};

/// RFC 9110, section 5.5: visible ASCII, space, tab, and bytes above 0x7F.
pub const fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7F)
}

/// Whether `name` could be a field's name.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && name.iter().all(|b| TOKEN[usize::from(*b)])
}

/// Whether a name, of which the caller knows that it is one, is `lower` but for case. `lower` is of lower-case letters and `-`: of
/// a name's bytes, no other has one of these when a letter's case is taken off.
#[inline]
pub fn is_named(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len() && name.iter().zip(lower).fold(0, |differ, (a, b)| differ | ((a | 0x20) ^ b)) == 0
}

/// How many of the first bytes could be a name's.
pub fn name_len(line: &[u8]) -> usize {
    line.iter().position(|b| !TOKEN[usize::from(*b)]).unwrap_or(line.len())
}

/// Whether `value` could be a field's value. Eight bytes are looked at in one step.
pub fn is_value(value: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    // Whether one of them is below the blank, or is DEL. A tab is, and is looked at again.
    let suspicious = |word: u64| {
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7F);
        (low | (delete.wrapping_sub(ONES) & !delete)) & HIGH != 0
    };
    let (words, rest) = value.as_chunks::<8>();
    let all = |word: &[u8; 8]| !suspicious(u64::from_le_bytes(*word)) || word.iter().all(|b| is_value_byte(*b));
    // The last bytes together with some before them, which were looked at already.
    words.iter().all(all) && value.last_chunk().map_or_else(|| rest.iter().all(|b| is_value_byte(*b)), all)
}

/// How many of the bytes could be no value's: in a head, those that end its lines and no others.
pub fn count_controls(bytes: &[u8]) -> usize {
    // Few enough for their number to fit into a byte, so that many are counted at a time.
    let count = |chunk: &[u8]| chunk.iter().fold(0_u8, |count, b| count + u8::from(!is_value_byte(*b)));
    bytes.chunks(128).map(|chunk| usize::from(count(chunk))).sum()
}

/// Without the blanks around it.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// Lengths of names: by these alone most fields are told from those that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths(u64);

impl Lengths {
    pub const ALL: Self = Self(u64::MAX);
    pub const NONE: Self = Self(0);

    pub const fn of(names: &[&str]) -> Self {
        let (mut lengths, mut at) = (Self::NONE, 0);
        while at < names.len() {
            lengths = lengths.and(names[at].len());
            at += 1;
        }
        lengths
    }

    /// One bit for each length, the last one for all from 63 on.
    #[must_use]
    pub const fn and(self, length: usize) -> Self {
        Self(self.0 | 1 << if length < 63 { length } else { 63 })
    }

    pub const fn has(self, length: usize) -> bool {
        self.0 & 1 << (if length < 63 { length } else { 63 }) != 0
    }
}
