//! Mount points from `/proc/PID/mountinfo` (see proc_pid_mountinfo(5)).

/// The mount points, in the order of the file. Skips malformed lines.
pub fn mount_points(mountinfo: &[u8]) -> Vec<Vec<u8>> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4).map(unescape))
        .collect()
}

/// The mount points below the directory `path`, an absolute path without symbolic links.
pub fn below(mountinfo: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    let is_below = |point: &Vec<u8>| {
        point
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with(b"/"))
    };
    mount_points(mountinfo)
        .into_iter()
        .filter(is_below)
        .collect()
}

/// The mount points of a mount, which the `fdinfo` of a descriptor names by its id, and of all mounts
/// below it. `None` if that has no id, or the id is not in `mountinfo`.
pub fn of_subtree(mountinfo: &[u8], fdinfo: &[u8]) -> Option<Vec<Vec<u8>>> {
    let id = fdinfo
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"mnt_id:"))?
        .trim_ascii();
    let mounts: Vec<(&[u8], &[u8], Vec<u8>)> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let (id, parent) = (fields.next()?, fields.next()?);
            Some((id, parent, unescape(fields.nth(2)?)))
        })
        .collect();
    let top = mounts.iter().find(|(other, ..)| *other == id)?;
    let (mut ids, mut points) = (vec![id], vec![top.2.clone()]);
    // The list of ids grows while it is walked.
    let mut next = 0;
    while let Some(above) = ids.get(next).copied() {
        for (id, parent, point) in &mounts {
            if *parent == above && !ids.contains(id) {
                ids.push(id);
                points.push(point.clone());
            }
        }
        next += 1;
    }
    Some(points)
}

/// Decodes space, tab, newline and backslash, which are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                text.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => text.push(*first),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_whole_components_and_unescaped() {
        let text = b"22 27 0:21 / /proc rw - proc proc rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            30 27 0:1 / /a/b rw - tmpfs t rw\n31 27 0:1 / /a/b\\040c/d rw - tmpfs t rw\nbroken\n";
        assert_eq!(
            mount_points(text),
            [&b"/proc"[..], b"/", b"/a/b", b"/a/b c/d"]
        );
        assert_eq!(below(text, b"/a"), [&b"/a/b"[..], b"/a/b c/d"]);
        assert_eq!(below(text, b"/a/b"), Vec::<Vec<u8>>::new());
        assert_eq!(below(text, b"/a/b c"), [&b"/a/b c/d"[..]]);
        let of = |id: &str| of_subtree(text, format!("pos:\t0\nmnt_id:\t{id}\n").as_bytes());
        assert_eq!(of("30"), Some(vec![b"/a/b".to_vec()]));
        assert_eq!(of("27").map(|points| points.len()), Some(4));
        assert_eq!((of("99"), of_subtree(text, b"")), (None, None));
        assert_eq!(unescape(b"\\134\\9"), b"\\\\9");
    }
}
