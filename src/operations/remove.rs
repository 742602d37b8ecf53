//! Trees that belong to the caller's subordinate ids, removed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archive::threads;
use super::session::Session;
use crate::error::{Context, Error, ErrorKind, PathContext, bytes};
use crate::observer::Observer;
use crate::userns::{self, Answer, Caller, HeldSignals, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::location::{self, Location};
use crate::workdir::removal::{self, Failed, Options};
use crate::workdir::retired::Retired;
use crate::workdir::trust::Trust;

/// Removes trees.
#[derive(Clone, Debug)]
pub struct Remove {
    /// The user namespace.
    pub session: Session,
    /// The trees.
    pub directories: Vec<PathBuf>,
    /// Count only.
    pub dry_run: bool,
}

/// What became of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedTree {
    /// The directory, as named.
    pub directory: PathBuf,
    /// It did not exist.
    pub missing: bool,
    /// Directories that were removed, or would be, with the tree's own.
    pub directories: u64,
    /// Other files.
    pub files: u64,
    /// Why it is still there. Each error is complete in itself.
    pub errors: Vec<Error>,
}

/// What the child asks the caller for. One tree after the other: each has a descriptor only while
/// it is removed.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Ask {
    /// Lock the tree of this number, and send it.
    Claim(usize),
    /// Take the name of the tree away.
    SetAside,
    /// Remove what only the caller can reach: a group that the namespace does not have keeps its
    /// root out of the caller's own directories.
    RemoveContents,
    /// Remove the directory itself, which is empty.
    RemoveRoot,
    /// The tree cannot be removed: give its name back.
    PutBack,
}

/// What the child did to one tree; `None` if it is missing. Directories below the root are counted.
type Outcome = Result<Option<removal::Removed>, Vec<Error>>;

/// The caller's side.
struct Caretaker<'n> {
    namespaces: &'n Namespaces,
    /// The trees that were named, each once.
    directories: Vec<&'n Path>,
    dry_run: bool,
    /// The tree that is being removed.
    current: Option<Retired<'n>>,
}

impl Caretaker<'_> {
    fn answer(&mut self, ask: Ask) -> Result<Answer<()>, Error> {
        match (ask, &mut self.current) {
            (Ask::Claim(number), _) => {
                self.current = None;
                let descriptor = self.claim(number)?;
                return Ok(Answer {
                    value: (),
                    descriptor,
                });
            }
            (Ask::SetAside, Some(current)) => current.set_aside()?,
            (Ask::RemoveContents, Some(current)) => {
                // This process must keep to one thread: it may have to fork again. In a tree of
                // which others own most, errors are expected, and what they are about is tried
                // again inside.
                let options = Options {
                    take_group: true,
                    ..Options::all(1)
                };
                let _ = removal::contents(current.directory(), &options);
            }
            (Ask::RemoveRoot, Some(current)) => {
                current.remove()?;
                self.current = None;
            }
            (Ask::PutBack, Some(current)) => current.put_back(),
            (_, None) => return Err(Error::new(ErrorKind::Died, "no tree is claimed")),
        }
        Ok(().into())
    }

    /// The directory, if it exists.
    fn claim(&mut self, number: usize) -> Result<Option<OwnedFd>, Error> {
        let Some(path) = self.directories.get(number) else {
            return Ok(None);
        };
        if self.dry_run {
            return match Location::of(path)? {
                Some(location) => Ok(location.open()?),
                None => Ok(None),
            };
        }
        // Leftovers of a killed removal go even where the directory is gone.
        self.current = Retired::claim(path, self.namespaces)?;
        let current = self.current.as_ref().map(|retired| {
            let again = retired.directory().try_clone_to_owned();
            again.at(bytes(path), "open once more")
        });
        Ok(current.transpose()?)
    }
}

impl Remove {
    /// Removes one tree.
    pub fn new(directory: impl Into<PathBuf>) -> Remove {
        Remove {
            session: Session::default(),
            directories: vec![directory.into()],
            dry_run: false,
        }
    }

    /// Removes the trees, one after the other, and goes on after a failure. A missing one is no
    /// error.
    ///
    /// # Errors
    ///
    /// What keeps all of them from being removed, such as one that must not be. What keeps a single
    /// one is in [`RemovedTree::errors`].
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Vec<RemovedTree>, Error> {
        let namespaces = self.session.namespaces(observer)?;
        self.refuse_precious().context(|| "cannot remove")?;
        let _held = HeldSignals::new()?;
        let mut caretaker = Caretaker {
            namespaces: &namespaces,
            directories: self.directories.iter().map(PathBuf::as_path).collect(),
            dry_run: self.dry_run,
            current: None,
        };
        let outcomes = userns::supervise(
            Supervision::of_work(&namespaces.whole, observer),
            |ask, _| caretaker.answer(ask),
            || Ok(()),
            |caller, ()| Ok(self.remove_all(caller)),
        );
        let outcomes = match (outcomes, &caretaker.current) {
            // A tree without its name would be forgotten.
            (Err(error), Some(current)) if current.is_aside() => Err(error.context(format!(
                "{:?} is only partly removed: its remaining files are in {:?}; \
                 the same command removes them",
                current.original_path(),
                current.path()
            ))),
            (outcomes, _) => outcomes,
        };
        let outcomes: Vec<Outcome> = outcomes.context(|| "cannot remove")?;
        let trust = Trust::new(&namespaces.whole);
        let trees = self.directories.iter().zip(outcomes);
        Ok(trees
            .map(|(path, outcome)| tree(path, explained(outcome, path, &trust)))
            .collect())
    }

    /// All are looked at before the first is touched.
    fn refuse_precious(&self) -> Result<(), Error> {
        let homes = location::homes();
        for path in &self.directories {
            if let Some(location) = Location::of(path)?
                && let Some(found) = location.open()?
            {
                location.refuse_precious(found.as_fd(), &homes)?;
            }
        }
        Ok(())
    }

    fn remove_all(&self, caller: &mut Caller<Ask>) -> Vec<Outcome> {
        (0..self.directories.len())
            .map(|number| {
                let claimed = caller.exchange(Ask::Claim(number), None);
                match claimed.map_err(|error| vec![error])?.descriptor {
                    Some(directory) => self.remove_tree(directory.as_fd(), caller).map(Some),
                    None => Ok(None),
                }
            })
            .collect()
    }

    fn remove_tree(
        &self,
        directory: BorrowedFd<'_>,
        caller: &mut Caller<Ask>,
    ) -> Result<removal::Removed, Vec<Error>> {
        if self.dry_run {
            return removal::count(directory).map_err(errors);
        }
        let options = Options::all(threads(0));
        let one = |error: Error| vec![error];
        caller.ask(Ask::SetAside).map_err(one)?;
        let mut done = removal::contents(directory, &options);
        if done.as_ref().is_err_and(Failed::lacks_rights) {
            caller.ask(Ask::RemoveContents).map_err(one)?;
            done = removal::contents(directory, &options);
        }
        match done {
            Ok(removed) => {
                caller.ask(Ask::RemoveRoot).map_err(one)?;
                Ok(removed)
            }
            Err(failed) => {
                caller.ask(Ask::PutBack).map_err(one)?;
                Err(errors(failed))
            }
        }
    }
}

/// The same outcome, with one error in place of those that a foreign owner of the tree explains.
fn explained(outcome: Outcome, path: &Path, trust: &Trust<'_>) -> Outcome {
    outcome.map_err(|errors| {
        let explanation = errors.iter().find_map(|error| {
            let explained = trust.explain(error.clone(), path);
            (explained != *error).then_some(explained)
        });
        explanation.map_or(errors, |explanation| vec![explanation])
    })
}

fn tree(path: &Path, outcome: Outcome) -> RemovedTree {
    let (removed, errors) = match outcome {
        Ok(removed) => (removed, Vec::new()),
        Err(errors) => (Some(removal::Removed::default()), errors),
    };
    let counts = removed.unwrap_or_default();
    RemovedTree {
        directory: path.to_owned(),
        missing: removed.is_none(),
        // One more: the tree's own.
        directories: counts.directories + u64::from(removed.is_some() && errors.is_empty()),
        files: counts.files,
        errors: errors
            .into_iter()
            .map(|error| error.context(format!("cannot remove {path:?}")))
            .collect(),
    }
}

fn errors(failed: Failed) -> Vec<Error> {
    let more = failed.count.saturating_sub(failed.errors.len() as u64);
    let mut errors: Vec<Error> = failed.errors.into_iter().map(Error::from).collect();
    if more > 0 {
        errors.push(Error::new(
            ErrorKind::NotRemoved,
            format!("and {more} more"),
        ));
    }
    errors
}
