//! The steps of the child into the namespace.

use std::io;

use rustix::mount::MountPropagationFlags;
use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid};

use super::channel::{Channel, Received, Wait};
use super::error::Step;
use super::signals::Watched;
use super::{FromChild, Isolation, ToChild};
use crate::sys;

/// The failure has been reported to the caller, or the caller is gone.
pub struct Reported;

/// Enters the namespace and binds this process's life to that of `parent`. Gives what `prepare`
/// gives in the new mount namespace, before the ids change.
pub fn enter<T>(
    isolation: &Isolation,
    parent: Pid,
    signals: &Watched,
    channel: &mut Channel,
    prepare: impl FnOnce() -> T,
) -> Result<T, Reported> {
    // A write beyond the limit of `ulimit -f` fails with EFBIG, which is reported with the path.
    let quiet = signals.release().and_then(|()| sys::ignore(libc::SIGXFSZ));
    step(channel, Step::Signals, quiet)?;
    die_with(parent, channel)?;
    let found = match isolation {
        Isolation::None => prepare(),
        Isolation::Namespace(_) => enter_namespace(parent, channel, prepare)?,
    };
    Ok(found)
}

fn enter_namespace<T>(
    parent: Pid,
    channel: &mut Channel,
    prepare: impl FnOnce() -> T,
) -> Result<T, Reported> {
    // newuidmap goes by the owner of /proc/PID, which is root for a process that cannot be dumped,
    // as one from an unreadable program file is.
    dumpable(channel)?;
    step(channel, Step::Unshare, sys::unshare_user_and_mounts())?;
    let found = prepare();
    // The reason why there are no maps is known outside.
    let unshared = channel.send(&FromChild::<(), ()>::Unshared, None);
    unshared.map_err(|_| Reported)?;
    match channel.receive(Wait::Yes) {
        Ok(Received::Message(ToChild::<()>::Mapped(true), _)) => {}
        _ => return Err(Reported),
    }
    become_root(channel)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step(
        channel,
        Step::Mounts,
        rustix::mount::mount_change("/", private),
    )?;
    // The kernel takes both back when ids change.
    dumpable(channel)?;
    die_with(parent, channel)?;
    Ok(found)
}

fn become_root(channel: &mut Channel) -> Result<(), Reported> {
    let gid = Gid::ROOT;
    step(
        channel,
        Step::Gid,
        rustix::thread::set_thread_res_gid(gid, gid, gid),
    )?;
    step(
        channel,
        Step::Groups,
        rustix::thread::set_thread_groups(&[]),
    )?;
    let uid = Uid::ROOT;
    step(
        channel,
        Step::Uid,
        rustix::thread::set_thread_res_uid(uid, uid, uid),
    )
}

fn dumpable(channel: &mut Channel) -> Result<(), Reported> {
    step(
        channel,
        Step::Dumpable,
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable),
    )
}

fn die_with(parent: Pid, channel: &mut Channel) -> Result<(), Reported> {
    let bound = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    step(channel, Step::DeathSignal, bound)?;
    // The signal does not come for a parent that was gone before.
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(Reported)
    }
}

fn step(
    channel: &mut Channel,
    step: Step,
    result: Result<(), impl Into<io::Error>>,
) -> Result<(), Reported> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        let errno = error.raw_os_error().filter(|errno| *errno != 0);
        let message = FromChild::<(), ()>::StepFailed(step, errno.unwrap_or(libc::EIO));
        // A caller that is gone needs no report.
        let _ = channel.send(&message, None);
        Reported
    })
}
