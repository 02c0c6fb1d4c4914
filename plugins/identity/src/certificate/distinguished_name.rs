//! A distinguished name as RFC 4514 writes it. What a name contains can never look like another part of it: every
//! special character is escaped, and so is every control character, because names go into headers and logs.

use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::x509::X509Name;

/// Names of attribute types: the table of RFC 4514, more of RFC 4519, and `emailAddress` of RFC 2985. Every other type
/// is written as its OID, with the value in hexadecimal.
const TYPES: [(&str, &str); 18] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.4", "sn"),
    ("2.5.4.42", "givenName"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.12", "title"),
    ("2.5.4.17", "postalCode"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Most specific part first, which is the reverse of the certificate's order.
pub(crate) fn rfc4514(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut out = String::new();
    for (index, part) in parts.into_iter().rev().enumerate() {
        if index > 0 {
            out.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                out.push('+');
            }
            write_attribute(&mut out, &attribute.attr_type().to_id_string(), attribute.attr_value());
        }
    }
    out
}

fn write_attribute(out: &mut String, oid: &str, value: &Any<'_>) {
    let name = TYPES.iter().find(|(id, _)| *id == oid).map(|(_, name)| *name);
    match (name, text(value)) {
        (Some(name), Some(text)) => {
            out.push_str(name);
            out.push('=');
            escape(out, &text);
        }
        (name, _) => {
            out.push_str(name.unwrap_or(oid));
            out.push_str("=#");
            let mut der = vec![u8::try_from(value.tag().0).unwrap_or(0xff)];
            push_length(&mut der, value.data.len());
            der.extend_from_slice(value.data);
            der.iter().for_each(|byte| out.push_str(&format!("{byte:02x}")));
        }
    }
}

fn push_length(der: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let used = bytes.iter().skip_while(|byte| **byte == 0);
            der.push(0x80 | used.clone().count() as u8);
            der.extend(used);
        }
    }
}

/// The text of a DirectoryString, or `None` if it is none that can be read without doubt.
fn text(value: &Any<'_>) -> Option<String> {
    let data = value.data;
    match value.tag() {
        Tag::Utf8String => std::str::from_utf8(data).ok().map(str::to_owned),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            data.is_ascii().then(|| String::from_utf8_lossy(data).into_owned())
        }
        Tag::BmpString => {
            let units: Option<Vec<u16>> = data.chunks(2).map(|pair| pair.try_into().ok().map(u16::from_be_bytes)).collect();
            String::from_utf16(&units?).ok()
        }
        Tag::UniversalString => {
            data.chunks(4).map(|four| four.try_into().ok().map(u32::from_be_bytes).and_then(char::from_u32)).collect()
        }
        // Teletex means different things to different readers.
        _ => None,
    }
}

fn escape(out: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| out.push_str(&format!("\\{byte:02X}")));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        escape(&mut out, text);
        out
    }

    #[test]
    fn a_value_cannot_look_like_more_parts() {
        assert_eq!(escaped("x,O=Evil+CN=root"), r"x\,O=Evil\+CN=root");
        assert_eq!(escaped("#a "), r"\#a\ ");
        assert_eq!(escaped("  "), r"\ \ ");
        assert_eq!(escaped(" "), r"\ ");
        assert_eq!(escaped("a\r\nb\0"), r"a\0D\0Ab\00");
        assert_eq!(escaped(r#"a"b\c;d<e>f"#), r#"a\"b\\c\;d\<e\>f"#);
        assert_eq!(escaped("Größe\u{85}"), "Größe\\C2\\85");
    }

    #[test]
    fn lengths_are_der() {
        for (length, der) in [(5, vec![5]), (127, vec![127]), (128, vec![0x81, 128]), (500, vec![0x82, 1, 0xf4])] {
            let mut out = Vec::new();
            push_length(&mut out, length);
            assert_eq!(out, der);
        }
    }
}
