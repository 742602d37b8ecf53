//! One archive for each way in which a rule can be broken, and for each way in which it looks as
//! if.

use super::blocks::*;

/// An archive, and what is to be said of it.
pub struct Case {
    pub name: &'static str,
    /// Suffix of the file.
    pub suffix: &'static str,
    pub bytes: Vec<u8>,
    /// Names of the rules that it breaks, each once.
    pub rules: &'static [&'static str],
    pub loads_0_85: bool,
    pub loads_0_89: bool,
    /// What the loaders make of it cannot be compared with what it says: it does not say anything
    /// clear, or it depends on something else.
    pub is_unclear: bool,
}

/// Name, what loads it, rules, members.
type Row = (&'static str, (bool, bool), &'static [&'static str], Vec<u8>);

/// Both loaders, the old one alone, the new one alone, none of them.
const BOTH: (bool, bool) = (true, true);
const OLD: (bool, bool) = (true, false);
const NEW: (bool, bool) = (false, true);
const NEITHER: (bool, bool) = (false, false);

/// All of them as plain tars: `members` with the root in front and an end behind.
pub fn plain() -> Vec<Case> {
    let a = || file("./a", b"hi");
    let dir_a = || patched(dir("./a/"), &[(100, b"0000700\0")]);
    let null = |name: &str| [device(name), a()].concat();
    let old_gnu = |is_continued: bool| {
        let extents: Vec<u8> = (0..4)
            .flat_map(|at| format!("{:011o}\0{:011o}\0", at * 1024, 512).into_bytes())
            .collect();
        let more: Vec<u8> = if is_continued {
            padded(format!("{:011o}\0{:011o}\0", 4096, 512).as_bytes())
        } else {
            Vec::new()
        };
        let (stored, size) = if is_continued {
            (2560, 4608)
        } else {
            (2048, 3584)
        };
        let real_size = format!("{size:011o}\0");
        let header = patched(
            sized("./s", b'S', stored),
            &[
                (257, b"ustar  \0"),
                (386, &extents),
                (482, &[u8::from(is_continued)]),
                (483, real_size.as_bytes()),
            ],
        );
        [header, more, vec![b's'; stored as usize], a()].concat()
    };
    let over = |header: Vec<u8>, at: usize, bytes: &[u8]| patched(header, &[(at, bytes)]);
    let owner = |uid: &str, name: &str| {
        [
            over(
                over(sized("./a", b'0', 2), 108, uid.as_bytes()),
                265,
                name.as_bytes(),
            ),
            padded(b"hi"),
        ]
        .concat()
    };
    let table: Vec<Row> = vec![
        (
            "good",
            BOTH,
            &[],
            [
                dir("./d/"),
                file("./d/f", b"f"),
                link("./l", b'2', "d/f"),
                link("./h", b'1', "./d/f"),
                header("./p", b'6'),
            ]
            .concat(),
        ),
        // Sizes.
        (
            "size in base-256",
            OLD,
            &["size-field"],
            [
                over(sized("./b", b'0', 2), 124, b"\x80\0\0\0\0\0\0\0\0\0\0\x02"),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "size of nothing in base-256",
            OLD,
            &["size-field"],
            [
                over(header("./b", b'0'), 124, b"\x80\0\0\0\0\0\0\0\0\0\0\0"),
                a(),
            ]
            .concat(),
        ),
        (
            "size with leading blanks",
            OLD,
            &["size-field"],
            [
                over(sized("./b", b'0', 2), 124, b"          2\0"),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "short size",
            OLD,
            &["size-field"],
            [
                over(sized("./b", b'0', 2), 124, b"2\0\0\0\0\0\0\0\0\0\0\0"),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "size of twelve digits",
            OLD,
            &["size-field"],
            [
                over(sized("./b", b'0', 2), 124, b"000000002000"),
                vec![b'b'; 1024],
                a(),
            ]
            .concat(),
        ),
        (
            "size of twelve digits, the same number of blocks",
            BOTH,
            &[],
            [
                over(sized("./b", b'0', 2), 124, b"000000000012"),
                padded(b"0123456789"),
                a(),
            ]
            .concat(),
        ),
        (
            "size with a blank behind",
            BOTH,
            &[],
            [
                over(sized("./b", b'0', 2), 124, b"00000000002 "),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "size in records, none in the header",
            OLD,
            &["pax-size"],
            [
                records(b'x', &[("size", "2")]),
                header("./b", b'0'),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "size in records as in the header",
            BOTH,
            &[],
            [records(b'x', &[("size", "2")]), file("./b", b"hi"), a()].concat(),
        ),
        (
            "size in records, the same number of blocks",
            BOTH,
            &[],
            [
                records(b'x', &[("size", "9")]),
                sized("./b", b'0', 2),
                padded(b"123456789"),
                a(),
            ]
            .concat(),
        ),
        ("old sparse file of four extents", BOTH, &[], old_gnu(false)),
        (
            "old sparse file of five extents",
            OLD,
            &["old-gnu-sparse"],
            old_gnu(true),
        ),
        (
            "directory with a size",
            OLD,
            &["size-without-data"],
            [sized("./d/", b'5', 5), a()].concat(),
        ),
        (
            "symbolic link with a size",
            OLD,
            &["size-without-data"],
            [over(sized("./l", b'2', 5), 157, b"a"), a()].concat(),
        ),
        (
            "hard link with a size",
            OLD,
            &["size-without-data"],
            [
                file("./f", b"f"),
                over(sized("./h", b'1', 5), 157, b"./f"),
                a(),
            ]
            .concat(),
        ),
        (
            "hard link with a size, a whole member after it",
            BOTH,
            &[],
            [
                file("./f", b"f"),
                over(sized("./h", b'1', 5), 157, b"./f"),
                dir("./d/"),
                a(),
            ]
            .concat(),
        ),
        (
            "symbolic link with a size, whole members after it",
            BOTH,
            &[],
            [
                over(sized("./l", b'2', 1024), 157, b"a"),
                file("./f", b"f"),
                device("./dev/null"),
                a(),
            ]
            .concat(),
        ),
        (
            "symbolic link with a size, a device after it",
            OLD,
            &["size-without-data"],
            [
                over(sized("./l", b'2', 5), 157, b"a"),
                device("./dev/null"),
                a(),
            ]
            .concat(),
        ),
        (
            "symbolic link with a size at the end",
            BOTH,
            &[],
            [a(), over(sized("./l", b'2', 99999), 157, b"a")].concat(),
        ),
        (
            "size in records, zeros as data",
            BOTH,
            &[],
            [
                records(b'x', &[("size", "2000")]),
                header("./b", b'0'),
                vec![0; 2048],
                a(),
            ]
            .concat(),
        ),
        (
            "size in records, a header as data",
            BOTH,
            &[],
            [
                records(b'x', &[("size", "512")]),
                header("./b", b'0'),
                dir("./d/"),
                a(),
            ]
            .concat(),
        ),
        (
            "size in records, a device as data",
            OLD,
            &["pax-size"],
            [
                records(b'x', &[("size", "512")]),
                header("./b", b'0'),
                device("./dev/null"),
                a(),
            ]
            .concat(),
        ),
        (
            "old sparse file of five extents of zeros",
            BOTH,
            &[],
            [old_gnu(true)[..1024].to_vec(), vec![0; 2560], a()].concat(),
        ),
        (
            "v7 file that is taken for data",
            BOTH,
            &[],
            [
                over(sized("./l", b'2', 5), 157, b"a"),
                over(header("./b", b'0'), 257, &[0; 8]),
                a(),
            ]
            .concat(),
        ),
        (
            "path below a device",
            NEW,
            &["device-node"],
            [device("./x/y"), file("./x/y/z", b"hi"), dir("./x/y/z2/")].concat(),
        ),
        (
            "device over a directory",
            NEW,
            &["device-node"],
            [file("./x/f", b"hi"), device("./x")].concat(),
        ),
        (
            "pipe with a size",
            OLD,
            &["size-without-data"],
            [sized("./p", b'6', 5), a()].concat(),
        ),
        (
            "skipped device with a size",
            NEITHER,
            &["size-of-skipped", "size-without-data"],
            [
                over(sized("./dev/null", b'3', 5), 329, b"0000001\x000000003\0"),
                a(),
            ]
            .concat(),
        ),
        // Magic.
        (
            "v7 directory",
            OLD,
            &["no-ustar-magic"],
            [over(dir("./d/"), 257, &[0; 8]), a()].concat(),
        ),
        (
            "v7 file",
            OLD,
            &["no-ustar-magic"],
            [
                over(sized("./b", b'0', 2), 257, &[0; 8]),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        (
            "GNU magic",
            BOTH,
            &[],
            [
                over(sized("./b", b'0', 2), 257, b"ustar  \0"),
                padded(b"hi"),
                a(),
            ]
            .concat(),
        ),
        // Devices.
        ("standard device", BOTH, &[], null("./dev/null")),
        (
            "device under another name",
            NEW,
            &["device-node"],
            null("./dev/loop0"),
        ),
        (
            "standard device without ./",
            NEW,
            &["device-node"],
            null("dev/null"),
        ),
        ("device anywhere", NEW, &["device-node"], null("./null")),
        (
            "block device",
            NEW,
            &["device-node"],
            [over(device("./dev/sda"), 156, b"4"), a()].concat(),
        ),
        (
            "one device with an odd checksum",
            BOTH,
            &[],
            [with_odd_checksum(device("./dev/null")), a()].concat(),
        ),
        (
            "odd checksums without devices",
            BOTH,
            &[],
            [with_odd_checksum(dir("./d/")), a()].concat(),
        ),
        (
            "devices with odd checksums",
            OLD,
            &["device-checksum"],
            [
                with_odd_checksum(device("./dev/null")),
                device("./dev/zero"),
                a(),
            ]
            .concat(),
        ),
        (
            "records before a device",
            OLD,
            &["pax-before-device"],
            [records(b'x', &[("mtime", "5")]), null("./dev/null")].concat(),
        ),
        (
            "path before a device",
            OLD,
            &["pax-before-device"],
            [records(b'x', &[("path", "./dev/null")]), null("./dev/xyz")].concat(),
        ),
        (
            "records before a device and the next member",
            BOTH,
            &[],
            [
                records(b'x', &[("path", "./dev/null")]),
                device("./dev/xyz"),
                records(b'x', &[("mtime", "7")]),
                a(),
            ]
            .concat(),
        ),
        (
            "records before two devices",
            OLD,
            &["pax-before-device"],
            [
                records(b'x', &[("mtime", "5")]),
                device("./dev/null"),
                device("./dev/zero"),
                a(),
            ]
            .concat(),
        ),
        (
            "records before a device that ends the archive",
            BOTH,
            &[],
            [records(b'x', &[("mtime", "5")]), device("./dev/null")].concat(),
        ),
        (
            "long name before a device",
            OLD,
            &["long-name-before-device"],
            [long_name("./dev/null"), null("./dev/xyz")].concat(),
        ),
        (
            "long names before a device and the next member",
            BOTH,
            &[],
            [
                long_name("./dev/null"),
                device("./dev/xyz"),
                long_name("./b"),
                a(),
            ]
            .concat(),
        ),
        (
            "long name before a device, records after it",
            OLD,
            &["long-name-before-device"],
            [
                long_name("./dev/null"),
                device("./dev/xyz"),
                records(b'x', &[("mtime", "7")]),
                a(),
            ]
            .concat(),
        ),
        (
            "long name before a device, a path after it",
            BOTH,
            &[],
            [
                long_name("./dev/null"),
                device("./dev/xyz"),
                records(b'x', &[("path", "./b")]),
                a(),
            ]
            .concat(),
        ),
        (
            "long name",
            BOTH,
            &[],
            [long_name(&format!("./{}", "n".repeat(200))), a()].concat(),
        ),
        (
            "file with the name of a device",
            BOTH,
            &[],
            [file("./dev/null", b"hi"), a()].concat(),
        ),
        (
            "file below the name of a device",
            NEW,
            &["skipped-name"],
            [file("./dev/null/f", b"hi"), a()].concat(),
        ),
        (
            "file with the name of a device in its name",
            NEW,
            &["skipped-name"],
            [file("./x/./dev/null", b"hi"), a()].concat(),
        ),
        (
            "hard link to a device",
            NEITHER,
            &["hard-link-to-device"],
            [device("./dev/null"), link("./h", b'1', "./dev/null"), a()].concat(),
        ),
        (
            "hard link to a file with the name of a device",
            NEW,
            &["hard-link-to-skipped"],
            [
                file("./dev/tty", b"hi"),
                link("./h", b'1', "./dev/tty"),
                a(),
            ]
            .concat(),
        ),
        // Owners.
        ("largest id", BOTH, &[], owner("0177777\0", "")),
        (
            "id above the largest",
            NEITHER,
            &["id-range"],
            owner("0200000\0", ""),
        ),
        (
            "id above the largest, called root",
            NEITHER,
            &["owner-name", "unpack-refuses"],
            owner("0200000\0", "root"),
        ),
        (
            "owner called as on every Debian system",
            BOTH,
            &[],
            owner("0000001\0", "daemon"),
        ),
        (
            "owner called like another",
            NEITHER,
            &["owner-name"],
            owner("0001750\0", "daemon"),
        ),
        (
            "owner known to the build host",
            NEITHER,
            &["owner-name"],
            owner("0000005\0", "isar-test"),
        ),
        (
            "hard link with an id above the largest",
            BOTH,
            &[],
            [a(), over(link("./h", b'1', "./a"), 108, b"0200000\0")].concat(),
        ),
        (
            "device with an id above the largest",
            BOTH,
            &[],
            [over(device("./dev/null"), 108, b"0200000\0"), a()].concat(),
        ),
        // Names.
        (
            "name with ..",
            NEITHER,
            &["dot-dot"],
            [dir("./d/"), file("./d/../b", b"hi")].concat(),
        ),
        ("absolute name", BOTH, &["absolute-name"], file("/b", b"hi")),
        ("name without ./", BOTH, &[], file("b", b"hi")),
        (
            "long component",
            NEITHER,
            &["name-too-long", "unpack-refuses"],
            [
                records(b'x', &[("path", &format!("./{}", "n".repeat(256)))]),
                a(),
            ]
            .concat(),
        ),
        (
            "longest component",
            BOTH,
            &[],
            [
                records(b'x', &[("path", &format!("./{}", "n".repeat(255)))]),
                a(),
            ]
            .concat(),
        ),
        ("missing directories", BOTH, &[], file("./x/y/z", b"hi")),
        // Links.
        (
            "hard link before its target",
            NEITHER,
            &["hard-link-target"],
            [link("./h", b'1', "./a"), a()].concat(),
        ),
        (
            "hard link to itself",
            NEITHER,
            &["hard-link-target"],
            link("./h", b'1', "./h"),
        ),
        (
            "hard link to a directory",
            NEITHER,
            &["hard-link-target"],
            [dir("./d/"), link("./h", b'1', "./d")].concat(),
        ),
        (
            "hard link to a symbolic link",
            BOTH,
            &[],
            [link("./l", b'2', "/x"), link("./h", b'1', "./l")].concat(),
        ),
        (
            "hard link to a pipe",
            BOTH,
            &[],
            [header("./p", b'6'), link("./h", b'1', "./p")].concat(),
        ),
        (
            "hard link to an absolute path",
            BOTH,
            &["hard-link-outside"],
            [a(), link("./h", b'1', "/a")].concat(),
        ),
        (
            "hard link through ..",
            BOTH,
            &["hard-link-outside"],
            [a(), link("./h", b'1', "./x/../a")].concat(),
        ),
        (
            "hard link to outside",
            NEITHER,
            &["hard-link-outside", "hard-link-target"],
            link("./h", b'1', "../../etc/passwd"),
        ),
        (
            "through a symbolic link",
            BOTH,
            &["followed-link"],
            [
                dir("./d/"),
                link("./l", b'2', "d"),
                file("./l/f", b"hi"),
                dir("./d/"),
            ]
            .concat(),
        ),
        (
            "hard link through a symbolic link",
            BOTH,
            &["followed-link"],
            [
                dir("./d/"),
                file("./d/f", b"hi"),
                link("./l", b'2', "d"),
                link("./h", b'1', "./l/f"),
            ]
            .concat(),
        ),
        (
            "hard link through an absolute symbolic link",
            NEITHER,
            &["hard-link-target"],
            [
                dir("./d/"),
                file("./d/f", b"hi"),
                link("./l", b'2', "/d"),
                link("./h", b'1', "./l/f"),
            ]
            .concat(),
        ),
        (
            "through an absolute symbolic link",
            NEITHER,
            &["through-link"],
            [link("./l", b'2', "/tmp"), file("./l/f", b"hi")].concat(),
        ),
        (
            "through a symbolic link with ..",
            NEITHER,
            &["through-link"],
            [
                dir("./d/"),
                dir("./e/"),
                link("./d/l", b'2', "../e"),
                file("./d/l/f", b"hi"),
            ]
            .concat(),
        ),
        (
            "through a dangling symbolic link",
            NEITHER,
            &["through-link"],
            [link("./l", b'2', "d"), file("./l/f", b"hi")].concat(),
        ),
        (
            "through a file",
            NEITHER,
            &["through-link"],
            [a(), file("./a/f", b"hi")].concat(),
        ),
        (
            "file over a symbolic link",
            BOTH,
            &[],
            [link("./a", b'2', "x"), a()].concat(),
        ),
        (
            "file over an absolute symbolic link",
            NEITHER,
            &["over-late-link"],
            [link("./a", b'2', "/x"), a()].concat(),
        ),
        (
            "symbolic link over an absolute one",
            NEITHER,
            &["over-late-link"],
            [link("./a", b'2', "/x"), link("./a", b'2', "x")].concat(),
        ),
        (
            "absolute symbolic link over a symbolic link",
            BOTH,
            &[],
            [link("./a", b'2', "x"), link("./a", b'2', "/x")].concat(),
        ),
        (
            "the same absolute symbolic link twice",
            BOTH,
            &[],
            [link("./a", b'2', "/x"), link("./a", b'2', "/x")].concat(),
        ),
        (
            "hard link over an absolute symbolic link",
            BOTH,
            &[],
            [
                file("./f", b"hi"),
                link("./a", b'2', "/x"),
                link("./a", b'1', "./f"),
            ]
            .concat(),
        ),
        (
            "directory over a symbolic link",
            BOTH,
            &["directory-over-link"],
            [dir("./d/"), link("./a", b'2', "d"), dir_a()].concat(),
        ),
        (
            "directory over an absolute symbolic link",
            NEITHER,
            &["directory-over-late-link"],
            [link("./a", b'2', "/tmp"), dir_a()].concat(),
        ),
        (
            "file over an empty directory",
            BOTH,
            &[],
            [dir_a(), a()].concat(),
        ),
        (
            "file over a directory",
            NEITHER,
            &["over-directory"],
            [dir_a(), file("./a/f", b"hi"), a()].concat(),
        ),
        (
            "hard link over a directory",
            NEITHER,
            &["over-directory"],
            [
                file("./f", b"hi"),
                dir_a(),
                file("./a/f", b"hi"),
                link("./a", b'1', "./f"),
            ]
            .concat(),
        ),
        (
            "symbolic link over a directory made on the way",
            NEITHER,
            &["over-directory"],
            [file("./a/b/f", b"hi"), link("./a", b'2', "x")].concat(),
        ),
        ("directory over a file", BOTH, &[], [a(), dir_a()].concat()),
        (
            "the same file twice",
            BOTH,
            &[],
            [file("./a", b"one"), a()].concat(),
        ),
        // Root.
        (
            "root that is a file",
            NEITHER,
            &["root-not-directory"],
            file(".", b"hi"),
        ),
        (
            "root of another user",
            BOTH,
            &["root-owner"],
            over(root(), 108, b"0002734\x000002734\0"),
        ),
        (
            "root again, closed",
            NEITHER,
            &["root-mode"],
            over(root(), 100, b"0000750\0"),
        ),
        // Global headers.
        (
            "global header",
            BOTH,
            &["global-header"],
            [records(b'g', &[("comment", "x")]), a()].concat(),
        ),
        (
            "global header with a time",
            BOTH,
            &["global-header"],
            [records(b'g', &[("mtime", "7")]), a()].concat(),
        ),
        (
            "global header with an attribute",
            BOTH,
            &["global-header"],
            [records(b'g', &[("SCHILY.xattr.user.k", "v")]), a()].concat(),
        ),
        // Attributes.
        (
            "capability of another root",
            BOTH,
            &["foreign-capability"],
            [capability(), a()].concat(),
        ),
        (
            "ACL by name",
            BOTH,
            &["unpack-refuses"],
            [
                records(
                    b'x',
                    &[(
                        "SCHILY.acl.access",
                        "user::rw-,user:bob:r--,group::r--,mask::r--,other::r--",
                    )],
                ),
                a(),
            ]
            .concat(),
        ),
        (
            "attribute with a long name",
            BOTH,
            &["unpack-refuses"],
            [
                records(
                    b'x',
                    &[(&format!("SCHILY.xattr.user.{}", "n".repeat(251)), "v")],
                ),
                a(),
            ]
            .concat(),
        ),
        (
            "path of 1025 components",
            BOTH,
            &["unpack-refuses"],
            [records(b'x', &[("path", &["d"; 1025].join("/"))]), a()].concat(),
        ),
        // Types.
        (
            "unknown type",
            BOTH,
            &["unknown-type"],
            [over(file("./z", b"abc"), 156, b"Z"), a()].concat(),
        ),
        (
            "ACL of Solaris",
            BOTH,
            &["unknown-type"],
            [over(file("./z", b"abc"), 156, b"A"), a()].concat(),
        ),
        (
            "records of Solaris",
            BOTH,
            &[],
            [records(b'X', &[("mtime", "7")]), a()].concat(),
        ),
        (
            "records of Solaris before a device",
            OLD,
            &["pax-before-device"],
            [records(b'X', &[("mtime", "5")]), null("./dev/null")].concat(),
        ),
        ("ids of blanks", BOTH, &[], owner("       \0       \0", "")),
        // Sparse files.
        (
            "sparse file",
            BOTH,
            &[],
            sparse(9000, "3\n0\n512\n4096\n2\n9000\n0\n", &[b's'; 514]),
        ),
        (
            "sparse file with extents that share a block",
            NEITHER,
            &["sparse-shared-block"],
            sparse(10, "2\n0\n2\n8\n2\n", b"abcd"),
        ),
        (
            "sparse file with a short map",
            NEITHER,
            &["sparse-short-map"],
            sparse(9000, "1\n0\n2\n", b"ab"),
        ),
        (
            "sparse file without a map",
            NEITHER,
            &["sparse-short-map"],
            sparse(9000, "0\n", b""),
        ),
    ];
    let case = |name, (loads_0_85, loads_0_89), rules, bytes: Vec<u8>, is_unclear| Case {
        name,
        suffix: "tar",
        bytes,
        rules,
        loads_0_85,
        loads_0_89,
        is_unclear,
    };
    let mut cases: Vec<Case> = table
        .into_iter()
        .map(|(name, loads, rules, members)| {
            case(
                name,
                loads,
                rules,
                [root(), shell(), members, END.to_vec()].concat(),
                false,
            )
        })
        .collect();
    // Archives whose beginning or end is what matters; and those that say nothing clear.
    cases.extend([
        case(
            "no root",
            NEITHER,
            &["no-root-entry"],
            [shell(), END.to_vec()].concat(),
            false,
        ),
        case(
            "nothing but an end",
            NEITHER,
            &["first-header", "no-root-entry", "no-shell"],
            END.to_vec().repeat(10),
            true,
        ),
        case(
            "v7 root first",
            OLD,
            &["first-header", "no-ustar-magic"],
            [over(root(), 257, &[0; 8]), shell(), END.to_vec()].concat(),
            false,
        ),
        case(
            "odd checksum first",
            OLD,
            &["first-header"],
            [with_odd_checksum(root()), shell(), END.to_vec()].concat(),
            false,
        ),
        case(
            "no end",
            BOTH,
            &["no-end"],
            [root(), shell()].concat(),
            false,
        ),
        case(
            "no shell",
            BOTH,
            &["no-shell"],
            [root(), a(), END.to_vec()].concat(),
            false,
        ),
        case(
            "dangling shell",
            BOTH,
            &["no-shell"],
            [root(), link("./bin/sh", b'2', "dash"), END.to_vec()].concat(),
            false,
        ),
        case(
            "shell through links",
            BOTH,
            &[],
            [
                root(),
                link("./bin", b'2', "usr/bin"),
                file("./usr/bin/dash", b""),
                link("./usr/bin/sh", b'2', "dash"),
                END.to_vec(),
            ]
            .concat(),
            false,
        ),
        case(
            "half an end",
            BOTH,
            &["short-end"],
            [root(), shell(), vec![0; 512]].concat(),
            false,
        ),
        case(
            "long end",
            BOTH,
            &[],
            [root(), shell(), vec![0; 10240]].concat(),
            false,
        ),
        case(
            "lone zero block",
            NEITHER,
            &["lone-zero-block"],
            [root(), vec![0; 512], a(), END.to_vec()].concat(),
            true,
        ),
        case(
            "data after the end",
            NEITHER,
            &["data-after-end"],
            [root(), END.to_vec(), a(), END.to_vec()].concat(),
            true,
        ),
        case(
            "cut off in data",
            NEITHER,
            &["malformed"],
            [root(), sized("./b", b'0', 1024), vec![b'b'; 512]].concat(),
            true,
        ),
        case(
            "cut off in a header",
            NEITHER,
            &["malformed"],
            [root(), a()[..100].to_vec()].concat(),
            true,
        ),
        case(
            "records and no member",
            NEITHER,
            &["malformed"],
            [root(), records(b'x', &[("mtime", "5")]), END.to_vec()].concat(),
            true,
        ),
        case(
            "wrong checksum",
            NEITHER,
            &["malformed"],
            [root(), flipped(a(), 0), END.to_vec()].concat(),
            true,
        ),
        case(
            "empty file",
            NEITHER,
            &["not-an-archive", "too-short"],
            Vec::new(),
            true,
        ),
        case(
            "no archive",
            NEITHER,
            &["not-an-archive"],
            b"This is no archive.\n".repeat(100),
            true,
        ),
    ]);
    cases
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// A file with a capability as root of a user namespace sees it from outside (v3 with the root id
/// 100000).
fn capability() -> Vec<u8> {
    let mut value = vec![1, 0, 0, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    value.extend(100_000_u32.to_le_bytes());
    let mut data = Vec::new();
    isar_tarball::internals::archive::pax::record(
        &mut data,
        b"SCHILY.xattr.security.capability",
        &value,
    );
    [
        sized("././@PaxHeader", b'x', data.len() as u64),
        padded(&data),
        file("./ping", b"hi"),
    ]
    .concat()
}
