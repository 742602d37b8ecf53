//! Names as GNU tar prints them, so that no name can forge a line or move a cursor.

/// Appends `name` the way GNU tar's default quoting style (`escape`) does: `\n`, `\t` and their
/// like by letter, a backslash doubled, every other byte that is not printable in octal.
///
/// With `is_utf8` printable characters above ASCII stand as they are. Which ones are printable is
/// Rust's word, not the C library's: unlike there, characters that change how the text around them
/// is laid out (bidirectional overrides, zero widths) are escaped.
pub fn append(out: &mut Vec<u8>, name: &[u8], is_utf8: bool) {
    if name
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
    {
        return out.extend_from_slice(name);
    }
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            match bytes {
                [byte] => ascii(out, *byte),
                _ if is_utf8 && is_printable(character) => out.extend_from_slice(bytes),
                _ => bytes.iter().for_each(|byte| octal(out, *byte)),
            }
        }
        chunk.invalid().iter().for_each(|byte| octal(out, *byte));
    }
}

fn ascii(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        0x07 => b'a',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0b => b'v',
        0x0c => b'f',
        b'\r' => b'r',
        b'\\' => b'\\',
        b' '..=b'~' => return out.push(byte),
        _ => return octal(out, byte),
    };
    out.extend([b'\\', letter]);
}

fn octal(out: &mut Vec<u8>, byte: u8) {
    out.extend([
        b'\\',
        b'0' + (byte >> 6),
        b'0' + (byte >> 3 & 7),
        b'0' + (byte & 7),
    ]);
}

/// Is the character visible, or combined with the one in front of it to something visible?
fn is_printable(character: char) -> bool {
    // A combining character is escaped only if it is the first character.
    let text: String = ['a', character].into_iter().collect();
    text.escape_debug().count() == 2
}

/// Do the programs of this environment print UTF-8? The first of the three variables that is set
/// says it (locale(7)).
pub fn is_utf8_locale() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(set)
        .unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.ends_with("utf-8")
        || locale.ends_with("utf8")
        || locale.contains("utf-8@")
        || locale.contains("utf8@")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(name: &[u8], is_utf8: bool) -> String {
        let mut out = Vec::new();
        append(&mut out, name, is_utf8);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn names_are_quoted_as_gnu_tar_does() {
        let cases: &[(&[u8], &str, &str)] = &[
            (b"a b\"'?*", "a b\"'?*", "a b\"'?*"),
            (b"a\\b", "a\\\\b", "a\\\\b"),
            (
                b"\x07\x08\t\n\x0b\x0c\r",
                "\\a\\b\\t\\n\\v\\f\\r",
                "\\a\\b\\t\\n\\v\\f\\r",
            ),
            (
                b"esc\x1b[2J\x7f\x00",
                "esc\\033[2J\\177\\000",
                "esc\\033[2J\\177\\000",
            ),
            (b"\xff\xfe", "\\377\\376", "\\377\\376"),
            ("\u{fc}ml".as_bytes(), "\u{fc}ml", "\\303\\274ml"),
            ("u\u{308}".as_bytes(), "u\u{308}", "u\\314\\210"),
            ("\u{202e}".as_bytes(), "\\342\\200\\256", "\\342\\200\\256"),
            ("\u{9b}2J".as_bytes(), "\\302\\2332J", "\\302\\2332J"),
        ];
        for (name, utf8, ascii) in cases {
            assert_eq!(quoted(name, true), *utf8);
            assert_eq!(quoted(name, false), *ascii);
        }
    }
}
