//! A member as JSON.

use isar_tarball::{Kind, Member};
use serde_json::{Map, Value, json};

/// The object that `list --json` documents.
pub fn member(member: &Member) -> Value {
    let entry = &member.entry;
    let mut object = Map::new();
    bytes(&mut object, "name", &member.name);
    bytes(&mut object, "path", &member.clean_path());
    object.insert("kind".into(), entry.kind.name().into());
    object.insert("mode".into(), format!("{:04o}", entry.mode).into());
    object.insert("uid".into(), entry.uid.into());
    object.insert("gid".into(), entry.gid.into());
    let size = if let Kind::File { size, .. } = entry.kind {
        size
    } else {
        0
    };
    object.insert("size".into(), size.into());
    object.insert(
        "mtime".into(),
        seconds(entry.mtime.seconds, entry.mtime.nanoseconds).into(),
    );
    match entry.kind {
        Kind::Symlink { .. } | Kind::HardLink { .. } => {
            bytes(&mut object, "target", &member.link_target)
        }
        _ => _ = object.insert("target".into(), Value::Null),
    }
    let device = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            json!([major, minor])
        }
        _ => Value::Null,
    };
    object.insert("device".into(), device);
    let xattrs = entry
        .xattrs
        .iter()
        .map(|(name, _)| Value::from(String::from_utf8_lossy(name)));
    object.insert("xattrs".into(), xattrs.collect());
    let acls = [
        ("access", &entry.access_acl),
        ("default", &entry.default_acl),
    ];
    object.insert(
        "acls".into(),
        acls.iter()
            .filter(|(_, acl)| acl.is_some())
            .map(|(name, _)| Value::from(*name))
            .collect(),
    );
    Value::Object(object)
}

/// Adds a name; what is not UTF-8 in it is replaced, and its bytes follow in hexadecimal.
fn bytes(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    object.insert(key.into(), String::from_utf8_lossy(name).into());
    if str::from_utf8(name).is_err() {
        let digits: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        object.insert(format!("{key}_hex"), digits.into());
    }
}

/// Seconds since 1970 with nine decimals; the fraction counts upwards, so that before 1970 it must
/// be turned round.
fn seconds(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let (whole, rest) = (seconds + 1, 1_000_000_000 - nanoseconds);
        return format!("{}{}.{rest:09}", if whole == 0 { "-" } else { "" }, whole);
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_decimals_before_1970_too() {
        for (time, text) in [
            ((1, 5), "1.000000005"),
            ((-1, 0), "-1.000000000"),
            ((-1, 500_000_000), "-0.500000000"),
            ((-2, 1), "-1.999999999"),
        ] {
            assert_eq!(seconds(time.0, time.1), text);
        }
    }
}
