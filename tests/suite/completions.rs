//! The completion scripts, in the shells that they are for.

use std::fs;
use std::process::Command;

use crate::world::{Scratch, isar, require, succeed};

/// What each line is completed to.
const LINES: &[(&str, &[&str])] = &[
    ("pa", &["pack"]),
    ("pack --le", &["--level"]),
    ("unpack --rep", &["--replace"]),
    ("unpack --devices ", &["create", "skip"]),
    ("-q grant-acl --sh", &["--share"]),
    ("idmap --format ne", &["newuidmap"]),
    ("imager --cache-l", &["--cache-limit"]),
];

fn script(scratch: &Scratch, shell: &str) -> std::path::PathBuf {
    let path = scratch.join(format!("completions.{shell}"));
    fs::write(&path, succeed(&mut isar(["completions", shell]))).unwrap();
    path
}

#[test]
fn bash_completes_commands_options_and_values() {
    let scratch = Scratch::new();
    let script = script(&scratch, "bash");
    let complete = r#"
        . "$0"
        function=$(complete -p isar-tarball | sed 's/.* -F \([^ ]*\) .*/\1/')
        read -ra COMP_WORDS <<<"isar-tarball $1"
        [ "${1% }" = "$1" ] || COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        COMP_LINE="isar-tarball $1" COMP_POINT=$((13 + ${#1}))
        $function isar-tarball "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}" | LC_ALL=C sort"#;
    for (line, expected) in LINES {
        let mut bash = Command::new("bash");
        bash.args(["-c", complete]).arg(&script).arg(line);
        let found = succeed(&mut bash);
        assert_eq!(found.lines().collect::<Vec<_>>(), *expected, "{line}");
    }
}

#[test]
fn fish_completes_commands_options_and_values() {
    if require(&["fish"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let script = script(&scratch, "fish");
    for (line, expected) in LINES {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"])
            .arg(&script)
            .arg(format!("isar-tarball {line}"))
            .env("HOME", scratch.path());
        let found = succeed(&mut fish);
        // Behind a tab stands a description.
        let mut words: Vec<&str> = found
            .lines()
            .map(|line| line.split('\t').next().unwrap_or_default())
            .collect();
        words.sort_unstable();
        assert_eq!(words, *expected, "{line}");
    }
}

/// zsh completes only on a terminal, which its module zpty provides.
#[test]
fn zsh_completes_commands_options_and_values() {
    if require(&["zsh"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    fs::rename(script(&scratch, "zsh"), scratch.join("_isar-tarball")).unwrap();
    let complete = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1=; PS2=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D
            isar-tarball() { print -r -- \"<\$*>\" }; echo rea''dy"
        zpty -r -m shell line '*ready*'
        zpty -w -n shell "isar-tarball $2"$'\t'
        sleep 0.5
        zpty -w -n shell $'\n'
        zpty -r -m shell line '*<*>*'
        print -r -- "${${line##*<}%%>*}"
        zpty -d shell"#;
    // What is not unique is left as it is.
    for (line, expected) in LINES.iter().filter(|(_, expected)| expected.len() == 1) {
        let mut zsh = Command::new("timeout");
        zsh.args(["20", "zsh", "-f", "-c", complete, "zsh"])
            .arg(scratch.path())
            .arg(line)
            .env("HOME", scratch.path());
        let found = succeed(&mut zsh);
        let last = found.trim_end().split(' ').next_back().unwrap_or_default();
        assert_eq!(last, expected[0], "{line}: {found}");
    }
}
