//! A tracer that sends a signal before a chosen system call of a run.
//!
//! It counts the calls that change names, owners, modes, content, locks and mounts, over all
//! processes of the run in one order. strace cannot do that: its `inject=…:when=N` counts per
//! thread, and this program works in several processes.
//!
//! The tracer is root, so setuid programs such as newuidmap keep their privilege.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::mem::{MaybeUninit, size_of};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use libc::c_long;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// No traced run of the tests takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The counted calls: number, name, and which argument is the path.
const CALLS: &[(c_long, &str, Path)] = &[
    (libc::SYS_mkdirat, "mkdirat", Path::Name(1)),
    (libc::SYS_renameat, "renameat", Path::Names(1, 3)),
    (libc::SYS_renameat2, "renameat2", Path::Names(1, 3)),
    (libc::SYS_unlinkat, "unlinkat", Path::Name(1)),
    (libc::SYS_linkat, "linkat", Path::Names(1, 3)),
    (libc::SYS_symlinkat, "symlinkat", Path::Name(2)),
    (libc::SYS_mknodat, "mknodat", Path::Name(1)),
    (libc::SYS_fchownat, "fchownat", Path::Name(1)),
    (libc::SYS_fchmodat, "fchmodat", Path::Name(1)),
    (libc::SYS_fchown, "fchown", Path::Descriptor),
    (libc::SYS_fchmod, "fchmod", Path::Descriptor),
    (libc::SYS_fsetxattr, "fsetxattr", Path::Descriptor),
    (libc::SYS_fremovexattr, "fremovexattr", Path::Descriptor),
    (libc::SYS_setxattr, "setxattr", Path::Name(0)),
    (libc::SYS_removexattr, "removexattr", Path::Name(0)),
    (libc::SYS_ftruncate, "ftruncate", Path::Descriptor),
    (libc::SYS_flock, "flock", Path::Descriptor),
    (libc::SYS_fsync, "fsync", Path::Descriptor),
    (libc::SYS_fdatasync, "fdatasync", Path::Descriptor),
    (libc::SYS_syncfs, "syncfs", Path::Descriptor),
    (libc::SYS_mount, "mount", Path::Name(1)),
    (libc::SYS_move_mount, "move_mount", Path::Name(3)),
    (libc::SYS_umount2, "umount2", Path::Name(0)),
    // Only where they create a file or write to a regular one, see `counted`.
    (libc::SYS_openat, "openat", Path::Name(1)),
    (libc::SYS_write, "write", Path::Descriptor),
    (libc::SYS_pwrite64, "pwrite64", Path::Descriptor),
    (
        libc::SYS_copy_file_range,
        "copy_file_range",
        Path::Descriptor,
    ),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Path::Name(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Path::Names(0, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Path::Name(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Path::Name(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, "chown", Path::Name(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Path::Name(0)),
];

/// Where a call has its path.
#[derive(Clone, Copy)]
enum Path {
    Name(usize),
    Names(usize, usize),
    Descriptor,
}

/// A counted system call.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: &'static str,
    /// Its path or paths, as given; the file's path if it takes a descriptor.
    pub path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.path)
    }
}

/// Who gets the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The process that is about to make the call.
    Caller,
    /// The process that was started.
    First,
    /// Every process of the run.
    Group,
}

/// A signal before a call.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// Which of the calls below, from 1.
    pub at: usize,
    /// The calls that count.
    pub of: fn(&Call) -> bool,
    pub signal: Signal,
    pub to: To,
}

/// A run that has ended, with all its processes.
#[derive(Debug)]
pub struct Traced {
    pub calls: Vec<Call>,
    /// The call before which the signal was sent.
    pub stopped_at: Option<Call>,
    pub status: ExitStatus,
    /// What it said on stderr.
    pub said: String,
}

/// Runs the command under the tracer, and sends the signal of `stop`. Ends when no process of the
/// run is left, so its locks and mounts are gone too.
///
/// The calling thread must have no other children.
pub fn trace(command: Command, stop: Option<Stop>) -> Traced {
    run(command, stop, &mut |_| ())
}

/// Runs the command under the tracer, and calls `before` before each counted call, which waits.
pub fn watch(command: Command, before: &mut dyn FnMut(&Call)) -> Traced {
    run(command, None, before)
}

fn run(mut command: Command, stop: Option<Stop>, before: &mut dyn FnMut(&Call)) -> Traced {
    let mut stderr = tempfile::tempfile().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr.try_clone().unwrap())
        .process_group(0);
    // SAFETY: ptrace(2) is safe to call between fork and exec, and touches no memory here.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    // The tracer waits for it.
    #[allow(clippy::zombie_processes)]
    let first = Pid::from_child(&command.spawn().unwrap());
    // Ends a run that hangs.
    let (ended, end) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = end.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _ = kill_process_group(first, Signal::KILL);
        }
        hangs
    });
    let mut tracer = Tracer {
        first,
        stop,
        before,
        seen: 0,
        known: HashSet::from([first.as_raw_pid()]),
        calls: Vec::new(),
        stopped_at: None,
    };
    let status = tracer.follow();
    drop(ended);
    assert!(!watchdog.join().unwrap(), "the run hangs: {command:?}");
    let mut said = String::new();
    stderr.rewind().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    Traced {
        calls: tracer.calls,
        stopped_at: tracer.stopped_at,
        status,
        said,
    }
}

struct Tracer<'a> {
    first: Pid,
    stop: Option<Stop>,
    before: &'a mut dyn FnMut(&Call),
    /// How many calls of `stop.of` there were.
    seen: usize,
    /// The threads that have stopped at least once.
    known: HashSet<i32>,
    calls: Vec<Call>,
    stopped_at: Option<Call>,
}

impl Tracer<'_> {
    /// Follows all processes to their end, and gives the status of the first one.
    fn follow(&mut self) -> ExitStatus {
        let mut first = None;
        let mut has_options = false;
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the status. Without children of other threads:
            // other tests wait for those.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
            if pid < 0 {
                let error = io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::ECHILD), "{error}");
                return first.expect("the first process has ended");
            }
            if !libc::WIFSTOPPED(status) {
                if pid == self.first.as_raw_pid() {
                    first = Some(ExitStatus::from_raw(status));
                }
                continue;
            }
            if !has_options {
                set_options(pid);
                has_options = true;
            }
            let is_new = self.known.insert(pid);
            let signal = match libc::WSTOPSIG(status) {
                number if number == libc::SIGTRAP | 0x80 => {
                    self.at_system_call(pid);
                    0
                }
                // Events, and the stop with which a traced process begins.
                libc::SIGTRAP => 0,
                libc::SIGSTOP if is_new => 0,
                number => number,
            };
            go_on(pid, signal);
        }
    }

    fn at_system_call(&mut self, pid: i32) {
        let Some(call) = entered(pid).and_then(|(number, args)| counted(pid, number, args)) else {
            return;
        };
        self.calls.push(call.clone());
        (self.before)(&call);
        let Some(stop) = self.stop.filter(|stop| (stop.of)(&call)) else {
            return;
        };
        self.seen += 1;
        if self.seen == stop.at {
            self.stopped_at = Some(call);
            // A process may have ended by itself.
            let _ = match stop.to {
                To::Caller => kill_process(Pid::from_raw(pid).unwrap(), stop.signal),
                To::First => kill_process(self.first, stop.signal),
                To::Group => kill_process_group(self.first, stop.signal),
            };
        }
    }
}

fn set_options(pid: i32) {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    // SAFETY: this request touches no memory of this process.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, c_long::from(options)) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Lets a stopped process run to its next system call.
fn go_on(pid: i32, signal: i32) {
    // SAFETY: this request touches no memory of this process. It fails if the process was killed.
    unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, c_long::from(signal)) };
}

/// The number and arguments of the call that a stopped process begins; `None` where it ends one.
fn entered(pid: i32) -> Option<(u64, [u64; 6])> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes into `info`, in which every byte is valid.
    unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr());
        let info = info.assume_init();
        (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then_some((info.u.entry.nr, info.u.entry.args))
    }
}

/// The call, if it counts.
fn counted(pid: i32, number: u64, args: [u64; 6]) -> Option<Call> {
    let (_, name, path) = CALLS.iter().find(|(known, ..)| *known as u64 == number)?;
    let path = match *path {
        Path::Name(at) => name_at(pid, args[at]),
        Path::Names(from, to) => {
            format!("{} -> {}", name_at(pid, args[from]), name_at(pid, args[to]))
        }
        Path::Descriptor if *name == "copy_file_range" => descriptor(pid, args[2]),
        Path::Descriptor => descriptor(pid, args[0]),
    };
    let counts = match *name {
        "openat" => args[2] & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64 != 0,
        // Not pipes and sockets, stdout, or the id maps of a namespace.
        "write" | "pwrite64" => {
            let elsewhere = ["/dev/", "/proc/"].iter().any(|dir| path.starts_with(dir));
            path.starts_with('/') && !elsewhere
        }
        _ => true,
    };
    counts.then_some(Call { name, path })
}

/// The string at an address of the process.
fn name_at(pid: i32, address: u64) -> String {
    let mut bytes = [0; 256];
    let memory = File::open(format!("/proc/{pid}/mem"));
    // What lies behind the string may not be readable.
    let length = memory.map_or(0, |memory| {
        memory.read_at(&mut bytes, address).unwrap_or_default()
    });
    let name = bytes[..length].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

fn descriptor(pid: i32, number: u64) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.map_or_else(|_| String::new(), |path| path.display().to_string())
}
