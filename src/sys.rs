//! System calls that need `unsafe`: the only file that has any. Everything else goes through
//! rustix.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
#[cfg(feature = "cli")]
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Statx, StatxFlags};
use rustix::io::{Errno, pread};
use rustix::process::Pid;

/// Which process this is after [`fork`].
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// How often the threads are counted again: one that was joined is listed for an instant longer.
const THREAD_COUNTS: u32 = 100;

/// The threads of this process; 1 where `/proc` does not tell.
pub fn thread_count() -> usize {
    let count = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    for _ in 0..THREAD_COUNTS {
        if count() <= 1 {
            return 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    count()
}

/// Splits the process in two. `None` when it has other threads: the child would have none of them,
/// and find their locks held forever.
pub(crate) fn fork() -> io::Result<Option<Forked>> {
    if thread_count() > 1 {
        return Ok(None);
    }
    // SAFETY: this is the only thread, so no lock is held and no memory is in an unfinished state
    // that another thread would have to complete. The child may go on with everything that the
    // parent could do.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Some(Forked::Child)),
        id => {
            let id = Pid::from_raw(id).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Some(Forked::Parent(id)))
        }
    }
}

/// Another descriptor of the open file that has this number in this process.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only, and fails for a number that is not open.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just created this descriptor, which nothing else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Ends a process that [`fork`] created, without running what the program registered for its own
/// end.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(status.into()) }
}

/// Two counters in memory that processes forked later share with this one.
#[derive(Debug)]
pub struct SharedCounters {
    page: NonNull<[AtomicU64; 2]>,
}

// SAFETY: the memory holds atomics alone, is valid until the value is dropped, and is not bound to
// a thread.
unsafe impl Send for SharedCounters {}
// SAFETY: as above; shared access goes through atomics.
unsafe impl Sync for SharedCounters {}

impl SharedCounters {
    /// Bytes of the mapping; the kernel rounds up to a page.
    const LENGTH: usize = size_of::<[AtomicU64; 2]>();

    /// Both counters at 0.
    pub fn new() -> io::Result<SharedCounters> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses overlaps nothing.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SharedCounters::LENGTH,
                protection,
                flags,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedCounters { page })
    }

    /// The counters.
    pub fn get(&self) -> &[AtomicU64; 2] {
        // SAFETY: the mapping is page-aligned, zeroed (a valid value of two atomics), and lives as
        // long as `self`.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for SharedCounters {
    fn drop(&mut self) {
        // SAFETY: `page` is a mapping of this length, and no reference outlives `self`.
        unsafe { libc::munmap(self.page.as_ptr().cast(), SharedCounters::LENGTH) };
    }
}

/// True if the program was started with a closed stdout.
///
/// The standard library opens `/dev/null` in place of a closed standard stream before `main`, so
/// that writing succeeds and the output is lost. A function in `.init_array` runs earlier and
/// looks.
#[cfg(feature = "cli")]
pub fn stdout_was_closed() -> bool {
    extern "C" fn look() {
        // SAFETY: takes numbers only.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
    }
    static WAS_CLOSED: AtomicBool = AtomicBool::new(false);
    // SAFETY: `.init_array` holds pointers to functions that the loader calls with the C calling
    // convention; `look` takes no arguments, uses no Rust runtime and cannot unwind.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;
    WAS_CLOSED.load(Ordering::Relaxed)
}

/// Reads `length` bytes of `file` at `offset` into `out`, in place of what it had; fewer only at the
/// end of the file.
pub fn pread_to(
    file: BorrowedFd<'_>,
    offset: u64,
    length: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    out.clear();
    out.reserve_exact(length);
    while out.len() < length {
        let have = out.len();
        match pread_append(file, offset + have as u64, length - have, out) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends to `out` up to `limit` bytes of `file` from `offset` on, without filling the room for
/// them with zeros first. Gives how many; 0 at the end of the file.
pub fn pread_append(
    file: BorrowedFd<'_>,
    offset: u64,
    limit: usize,
    out: &mut Vec<u8>,
) -> io::Result<usize> {
    out.reserve(limit);
    let spare = out.spare_capacity_mut();
    let room = spare.len().min(limit);
    let (read, _) = pread(file, &mut spare[..room], offset)?;
    let count = read.len();
    // SAFETY: `pread` has initialised the first `count` bytes of the spare capacity, as its return
    // value says.
    unsafe { out.set_len(out.len() + count) };
    Ok(count)
}

/// From how many bytes on a block of memory is mapped on its own, once [`give_memory_back`] was
/// called: when it grows its pages move, and nothing is copied.
pub const MAPPED: usize = 4 << 20;

/// Has each block of memory of [`MAPPED`] bytes and more go back to the system when it is freed. By
/// itself glibc's allocator comes to keep such of up to 32 MiB, and a process takes as much again
/// as it uses. For the whole process, and of no effect with other C libraries, which do so anyway.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers only.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED as libc::c_int);
    }
}

/// How much one call should write at the most, in bytes. For more Linux takes memory for the page
/// cache in blocks of 2 MiB and larger, and these are dear where free blocks go back to the host of
/// a virtual machine: 160 MiB onto ext4 took 0.43 s in calls of 4 MiB, and 0.04 s in calls of 1
/// MiB.
const MOST_WRITTEN: usize = 1 << 20;

/// As much of the front of `bytes` as one call should write.
pub fn piece(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MOST_WRITTEN)]
}

/// Has the kernel begin to write `length` bytes of `file` from `offset` on to the disk, and does
/// not wait for it.
pub fn start_writeback(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    let place = |bytes: u64| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    // SAFETY: takes numbers only; the descriptor is open as long as it is borrowed.
    match unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            place(offset)?,
            place(length)?,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves this process into a new user namespace without maps, and into a mount namespace that
/// belongs to it. To be called while the process has one thread; otherwise the kernel refuses with
/// EINVAL.
pub fn unshare_user_and_mounts() -> io::Result<()> {
    use rustix::thread::UnshareFlags;
    // SAFETY: neither flag takes descriptors or memory away from code that relies on them, which is
    // what makes other flags unsafe.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?)
}

/// Has the next child of this process begin a new pid namespace, as its process 1.
pub fn unshare_pids() -> io::Result<()> {
    // SAFETY: as above; this process itself stays where it is.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?)
}

/// Moves this process into a mount namespace of its own.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: as above.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// Makes the mount that `mount` is the root of, and all mounts below it, read-only
/// (mount_setattr(2), Linux 5.12).
pub fn make_mounts_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is an empty string, the structure has the size that is given and the layout
    // of the kernel's, and the call only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Fails where clone3(2) is blocked, so that no thread can be started. Starts no process.
pub fn has_clone3() -> io::Result<()> {
    // SAFETY: a structure of size 0 is refused before the kernel reads it.
    match unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) } {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            // The C library has a substitute for a missing call.
            error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => Ok(()),
            error => Err(error),
        },
    }
}

/// Calls statx(2). Where it is missing or blocked, as by the seccomp filters of old container
/// engines, the result comes from fstatat(2) and has the basic fields alone.
pub fn statx(
    directory: impl AsFd,
    name: &CStr,
    flags: AtFlags,
    mask: StatxFlags,
) -> Result<Statx, Errno> {
    match rustix::fs::statx(&directory, name, flags, mask) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let stat = rustix::fs::statat(directory, name, flags)?;
            // SAFETY: all fields are integers or sets of bits, for which zero is a valid value.
            let mut basic: Statx = unsafe { MaybeUninit::zeroed().assume_init() };
            basic.stx_mask = StatxFlags::BASIC_STATS.bits();
            basic.stx_blksize = u32::try_from(stat.st_blksize).unwrap_or(u32::MAX);
            basic.stx_nlink = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX);
            basic.stx_uid = stat.st_uid;
            basic.stx_gid = stat.st_gid;
            // The kind and the permissions, which have 16 bits.
            basic.stx_mode = (stat.st_mode & 0xffff) as u16;
            basic.stx_ino = stat.st_ino;
            basic.stx_size = u64::try_from(stat.st_size).unwrap_or(0);
            basic.stx_blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            for (time, seconds, nanoseconds) in [
                (&mut basic.stx_atime, stat.st_atime, stat.st_atime_nsec),
                (&mut basic.stx_mtime, stat.st_mtime, stat.st_mtime_nsec),
                (&mut basic.stx_ctime, stat.st_ctime, stat.st_ctime_nsec),
            ] {
                time.tv_sec = seconds;
                time.tv_nsec = u32::try_from(nanoseconds).unwrap_or(0);
            }
            basic.stx_rdev_major = rustix::fs::major(stat.st_rdev);
            basic.stx_rdev_minor = rustix::fs::minor(stat.st_rdev);
            basic.stx_dev_major = rustix::fs::major(stat.st_dev);
            basic.stx_dev_minor = rustix::fs::minor(stat.st_dev);
            Ok(basic)
        }
        found => found,
    }
}

/// Writes the file system of `file` to the disk.
pub fn sync_file_system(file: impl AsFd) -> Result<(), Errno> {
    match rustix::fs::syncfs(file) {
        // A seccomp filter blocks it. This one syncs other file systems too, and cannot fail.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::sync();
            Ok(())
        }
        synced => synced,
    }
}

/// Runs a command and collects its output.
///
/// The C library starts processes by clone3(2), and goes back to older calls only if that one is
/// missing, not if it is refused, as by the seccomp filters of old container engines.
pub fn output(command: &mut Command) -> io::Result<Output> {
    match command.output() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            // With something to do before exec, the standard library uses fork(2).
            // SAFETY: the closure does nothing.
            unsafe { command.pre_exec(|| Ok(())) };
            command.output()
        }
        output => output,
    }
}

/// Blocks the signals for this thread and gives a descriptor that queues them: CLOEXEC, not
/// blocking, each read one `struct signalfd_siginfo` (see signalfd(2)).
pub fn queue_signals(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    change_signal_mask(libc::SIG_BLOCK, &set)?;
    // SAFETY: `set` is initialised, and -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just made this descriptor, and nobody else has it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The signal mask of this thread and the action of SIGCHLD at some point in time.
pub struct SignalState {
    mask: libc::sigset_t,
    on_child: libc::sigaction,
}

impl SignalState {
    /// As they are now.
    pub fn current() -> SignalState {
        let mut mask = MaybeUninit::uninit();
        let mut on_child = MaybeUninit::uninit();
        // SAFETY: null pointers say that nothing is to change. Both calls write the whole value
        // and cannot fail with these arguments.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
            libc::sigaction(libc::SIGCHLD, std::ptr::null(), on_child.as_mut_ptr());
            SignalState {
                mask: mask.assume_init(),
                on_child: on_child.assume_init(),
            }
        }
    }

    /// Makes them so again. Pending signals that become unblocked act at once.
    pub fn restore(&self) {
        // SAFETY: both values come from the kernel; a handler among them was valid before.
        unsafe {
            libc::sigaction(libc::SIGCHLD, &self.on_child, std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask, std::ptr::null_mut());
        }
    }
}

/// Keeps the signals waiting for this thread, and for those that it starts.
pub fn block_signals(signals: &[i32]) -> io::Result<()> {
    change_signal_mask(libc::SIG_BLOCK, &signal_set(signals))
}

/// Lets the signals through to this thread again.
pub fn unblock_signals(signals: &[i32]) -> io::Result<()> {
    change_signal_mask(libc::SIG_UNBLOCK, &signal_set(signals))
}

/// True when this process ignores the signal, as under nohup(1).
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action changes nothing; the old one is written to memory of its type, and
    // read only when the call says that it was.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Makes a write beyond the limit of `ulimit -f` fail with EFBIG, in this process and those that it
/// forks. SIGXFSZ would kill them before they remove what they have created.
#[cfg(feature = "cli")]
pub fn fail_beyond_file_size_limit() {
    // It fails only for a wrong number.
    let _ = ignore(libc::SIGXFSZ);
}

/// Gives the signal its default action.
pub fn set_default_action(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_DFL)
}

/// Ends this process by the signal. Returns if that fails, as it does for the first process of a pid
/// namespace.
#[cfg(feature = "cli")]
pub fn die_of(signal: i32) {
    // Otherwise SIGQUIT writes a core file.
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: rustix::process::getrlimit(rustix::process::Resource::Core).maximum,
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let is_deadly = set_default_action(signal).and_then(|()| unblock_signals(&[signal]));
    if let (Ok(()), Some(signal)) = (is_deadly, rustix::process::Signal::from_named_raw(signal)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}

/// Ignores the signal.
pub fn ignore(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_IGN)
}

fn set_action(signal: i32, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: neither action that this is called with is a handler, so no code can be interrupted
    // in a new way.
    match unsafe { libc::signal(signal, action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything else uses it; sigaddset checks the
    // number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn change_signal_mask(how: i32, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised; a null pointer says that the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// What the user database says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswdEntry {
    /// The login name.
    pub name: Vec<u8>,
    /// The uid.
    pub uid: u32,
    /// The primary gid.
    pub gid: u32,
}

/// The user with this uid, from every source that nsswitch.conf names; `None` when there is none.
pub fn passwd_by_uid(uid: u32) -> io::Result<Option<PasswdEntry>> {
    passwd(|entry, buffer, length, found| {
        // SAFETY: the pointers come from `passwd`, which keeps what they point to alive and says
        // how long the buffer is.
        unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) }
    })
}

/// The user of this name, from every source that nsswitch.conf names; `None` when there is none.
pub fn passwd_by_name(name: &CStr) -> io::Result<Option<PasswdEntry>> {
    passwd(|entry, buffer, length, found| {
        // SAFETY: as above; `name` ends in NUL.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) }
    })
}

fn passwd(
    call: impl Fn(
        *mut libc::passwd,
        *mut libc::c_char,
        libc::size_t,
        *mut *mut libc::passwd,
    ) -> libc::c_int,
) -> io::Result<Option<PasswdEntry>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        match call(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        ) {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: a result that is not null says that `entry` was filled in, and its name
                // is a string in `buffer`, which still lives.
                let (entry, name) = unsafe {
                    let entry = entry.assume_init();
                    (entry, CStr::from_ptr(entry.pw_name).to_bytes().to_vec())
                };
                return Ok(Some(PasswdEntry {
                    name,
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                }));
            }
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            // getpwnam(3): "not found" comes as one of these too, depending on the source.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(feature = "cli")]
/// A point in time as the clock on the wall of this machine shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The year of the Gregorian calendar.
    pub year: i64,
    /// 1..=12.
    pub month: u32,
    /// 1..=31.
    pub day: u32,
    /// 0..=23.
    pub hour: u32,
    /// 0..=59.
    pub minute: u32,
    /// 0..=60.
    pub second: u32,
}

#[cfg(feature = "cli")]
/// `seconds` since 1970 in the time zone of the environment (`TZ`, else `/etc/localtime`); `None`
/// where the year does not fit an `int`.
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    let mut time = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are valid for the call. The environment, which it may read, is never
    // changed by this program.
    let done = unsafe { libc::localtime_r(&seconds, time.as_mut_ptr()) };
    if done.is_null() {
        return None;
    }
    // SAFETY: a result that is not null says that `time` was filled in.
    let time = unsafe { time.assume_init() };
    let number = |field: libc::c_int| u32::try_from(field).unwrap_or(0);
    Some(LocalTime {
        year: i64::from(time.tm_year) + 1900,
        month: number(time.tm_mon) + 1,
        day: number(time.tm_mday),
        hour: number(time.tm_hour),
        minute: number(time.tm_min),
        second: number(time.tm_sec),
    })
}
