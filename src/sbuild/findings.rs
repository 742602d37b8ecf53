//! Findings in an archive.

use std::fmt;

use super::rules::{Loader, Rule};
use crate::error::Escaped;

/// Maximum number of findings kept per rule; the others are counted.
const MAX_PER_RULE: u64 = 20;

/// A rule that an archive breaks, where, and how.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// The name of the member, as stored; `None` if the finding is about the archive.
    pub member: Option<Vec<u8>>,
    /// Details that the rule does not have.
    pub detail: Option<String>,
}

impl Finding {
    /// The finding and its consequence.
    pub fn effect(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{detail}: {}", self.rule.effect),
            None => self.rule.effect.to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.rule)?;
        if let Some(member) = &self.member {
            write!(out, "{}: ", Escaped(member))?;
        }
        out.write_str(&self.effect())
    }
}

/// The findings in one archive, in its order, at most 20 per rule.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    counts: Vec<(&'static Rule, u64)>,
}

impl Findings {
    /// Adds a finding. Calls `detail` only if the finding is kept.
    pub fn add(
        &mut self,
        rule: &'static Rule,
        member: Option<&[u8]>,
        detail: impl FnOnce() -> Option<String>,
    ) {
        let count = match self.counts.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => count,
            None => {
                self.counts.push((rule, 0));
                match self.counts.last_mut() {
                    Some((_, count)) => count,
                    None => return,
                }
            }
        };
        *count += 1;
        if *count <= MAX_PER_RULE {
            self.kept.push(Finding {
                rule,
                member: member.map(<[u8]>::to_vec),
                detail: detail(),
            });
        }
    }

    /// The findings that are kept.
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// Returns the findings that are kept.
    pub fn into_kept(self) -> Vec<Finding> {
        self.kept
    }

    /// The rules with findings that are not kept, and their number.
    pub fn left_out(&self) -> impl Iterator<Item = (&'static Rule, u64)> {
        let more =
            |(rule, count): &(&'static Rule, u64)| (*rule, count.saturating_sub(MAX_PER_RULE));
        self.counts.iter().map(more).filter(|(_, more)| *more > 0)
    }

    /// True if this loader would load the archive as it is.
    pub fn loads(&self, loader: Loader) -> bool {
        self.counts
            .iter()
            .all(|(rule, _)| !rule.loaders.contains(&loader))
    }

    /// True if the archive is whole: not damaged, not truncated, with an end.
    pub fn is_intact(&self) -> bool {
        self.counts.iter().all(|(rule, _)| rule.is_intact)
    }

    /// Number of findings that make `unpack` refuse the archive.
    pub fn refusals(&self) -> u64 {
        let refusing = self.counts.iter().filter(|(rule, _)| !rule.is_safe);
        refusing.map(|(_, count)| count).sum()
    }

    /// True if there is nothing that `unpack` refuses.
    pub fn is_safe(&self) -> bool {
        self.refusals() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    #[test]
    fn a_million_findings_of_one_rule_are_twenty_and_a_count() {
        let mut findings = Findings::default();
        for _ in 0..1_000_000 {
            findings.add(&rules::ID_RANGE, Some(b"./a"), || None);
        }
        findings.add(&rules::NO_END, None, || None);
        assert_eq!(findings.kept().len(), 21);
        assert_eq!(
            findings
                .left_out()
                .map(|(rule, more)| (rule.name, more))
                .collect::<Vec<_>>(),
            [("id-range", 999_980)]
        );
        assert!(!findings.loads(Loader::V0_85) && !findings.is_intact() && !findings.is_safe());
        assert_eq!(findings.refusals(), 1_000_000);
    }

    #[test]
    fn names_cannot_forge_lines() {
        let finding = Finding {
            rule: &rules::ID_RANGE,
            member: Some(b"a\nb".to_vec()),
            detail: None,
        };
        assert!(
            finding
                .to_string()
                .starts_with("id-range: a\\nb: the user namespace")
        );
    }
}
