//! Computes what `--version` prints: the version, the commit and the features.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let features = ["gzip", "xz"]
        .into_iter()
        .filter(|name| cfg_var(&format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some());
    let mut with: Vec<String> = Vec::from_iter(features.map(str::to_owned));
    if with.is_empty() {
        with.push("no features".to_owned());
    }
    let with = with.join(", ");
    let details = match commit() {
        Some(commit) => format!("commit {commit}; {with}"),
        None => with,
    };
    println!("cargo::rustc-env=ISAR_TARBALL_VERSION={version} ({details})");
}

/// The commit that is built. A debug build names none, so that a commit does not force a rebuild.
fn commit() -> Option<String> {
    if cfg_var("PROFILE")? != "release" {
        return None;
    }
    // A tarball of the sources may lie in another project's repository.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if top != cfg_var("CARGO_MANIFEST_DIR")? {
        return None;
    }
    // HEAD's log grows with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn cfg_var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
