//! Takes io_uring away, as container engines do: a seccomp filter answers io_uring_setup with
//! `EPERM`. It needs no privilege (PR_SET_NO_NEW_PRIVS comes first) and cannot be undone; a process
//! started under it inherits it.

#![expect(
    unsafe_code,
    reason = "prctl(2) with a filter, and Command::pre_exec to call it in the child"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "libc's constants are wider than the fields of the filter format they are made for"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The process that `command` starts, and its children, will not get io_uring.
pub(crate) fn command_without_io_uring(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure only calls prctl(2) with values on its stack: it
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(forbid_io_uring_on_this_thread) }
}

/// The calling thread, and the threads and processes it starts from now on, will not get io_uring.
///
/// # Errors
///
/// Those of prctl(2): `EINVAL` when the kernel has no seccomp filters.
pub(crate) fn forbid_io_uring_on_this_thread() -> io::Result<()> {
    let filter = FILTER;
    let program = libc::sock_fprog {
        len: FILTER.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which lives until the call returns and whose length is
    // that of its instructions.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Loads the number of the system call (seccomp_data.nr) and refuses one. A process that calls by
/// another architecture's numbers escapes it, which is no matter for a test.
const FILTER: [libc::sock_filter; 4] = [
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
    instruction(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        1,
        libc::SYS_io_uring_setup as u32,
    ),
    instruction(
        libc::BPF_RET | libc::BPF_K,
        0,
        libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
    ),
    instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
];

/// A jump goes on with the next instruction when its comparison holds, past one otherwise.
const fn instruction(code: u32, skip_if_unequal: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip_if_unequal,
        k: operand,
    }
}
