//! The steps of the new process into its place.

use std::io;

use rustix::mount::MountPropagationFlags;
use rustix::process::{DumpableBehavior, Gid, Pid, Signal, Uid};

use super::Isolation;
use super::channel::Channel;
use super::error::Step;
use super::signals::Watched;
use crate::sys;

/// The step that failed has been reported to the process outside, or there is none any more.
pub struct Reported;

/// Goes to `place` and binds this process's life to that of `parent`. Gives what `as_caller` gives
/// in the mount namespace there, before the ids change.
pub fn enter<T>(
    place: &Isolation,
    parent: Pid,
    signals: &Watched,
    channel: &mut Channel,
    as_caller: impl FnOnce() -> T,
) -> Result<T, Reported> {
    step(channel, Step::Signals, signals.release())?;
    die_with(parent, channel)?;
    let found = match place {
        Isolation::None => as_caller(),
        Isolation::Namespace(_) => enter_namespace(parent, channel, as_caller)?,
    };
    Ok(found)
}

fn enter_namespace<T>(
    parent: Pid,
    channel: &mut Channel,
    as_caller: impl FnOnce() -> T,
) -> Result<T, Reported> {
    // newuidmap goes by the owner of /proc/PID, which is root for a process that cannot be dumped,
    // as one from an unreadable program file is.
    dumpable(channel)?;
    step(channel, Step::Unshare, sys::unshare_user_and_mounts())?;
    let found = as_caller();
    // The reason why there are no maps is known outside.
    channel.unshared().map_err(|_| Reported)?;
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
        channel.failed(step, &error.into());
        Reported
    })
}
