//! Owners by name: GNU tar looks up a stored name on the build host, and uses the id in the archive
//! only if the host has no such name.

/// Users with the same id on every Debian system (`passwd.master` of base-passwd).
const USERS: &[(&str, u32)] = &[
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("sync", 4),
    ("games", 5),
    ("man", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("proxy", 13),
    ("www-data", 33),
    ("backup", 34),
    ("list", 38),
    ("irc", 39),
    ("nobody", 65534),
];

/// Groups with the same id on every Debian system (`group.master` of base-passwd).
const GROUPS: &[(&str, u32)] = &[
    ("root", 0),
    ("daemon", 1),
    ("bin", 2),
    ("sys", 3),
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("lp", 7),
    ("mail", 8),
    ("news", 9),
    ("uucp", 10),
    ("man", 12),
    ("proxy", 13),
    ("kmem", 15),
    ("dialout", 20),
    ("fax", 21),
    ("voice", 22),
    ("cdrom", 24),
    ("floppy", 25),
    ("tape", 26),
    ("sudo", 27),
    ("audio", 29),
    ("dip", 30),
    ("www-data", 33),
    ("backup", 34),
    ("operator", 37),
    ("list", 38),
    ("irc", 39),
    ("src", 40),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("sasl", 45),
    ("plugdev", 46),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
    ("nogroup", 65534),
];

/// The owner that GNU tar derives from a user name and id.
pub fn user(name: &[u8], id: u32) -> Owner {
    look_up(USERS, name, id)
}

/// The group that GNU tar derives from a group name and id.
pub fn group(name: &[u8], id: u32) -> Owner {
    look_up(GROUPS, name, id)
}

/// The resulting owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This id.
    Id(u32),
    /// The id of this name on the build host, else the id in the archive.
    Unknown,
}

fn look_up(known: &[(&str, u32)], name: &[u8], id: u32) -> Owner {
    if name.is_empty() {
        return Owner::Id(id);
    }
    let found = known.iter().find(|(known, _)| known.as_bytes() == name);
    found.map_or(Owner::Unknown, |(_, id)| Owner::Id(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_win_over_ids() {
        assert_eq!(user(b"", 1000), Owner::Id(1000));
        assert_eq!(user(b"root", 1000), Owner::Id(0));
        assert_eq!(user(b"man", 6), Owner::Id(6));
        assert_eq!(group(b"man", 6), Owner::Id(12));
        assert_eq!(user(b"sbuild", 999), Owner::Unknown);
    }
}
