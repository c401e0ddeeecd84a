//! Names of system calls, for the texts of `injection`.

macro_rules! names {
    ($($name:ident)*) => {
        /// The name of a system call that a runtime makes, or its number.
        pub fn name(number: i64) -> String {
            match number {
                $(libc::$name => stringify!($name).trim_start_matches("SYS_").to_owned(),)*
                other => other.to_string(),
            }
        }
    };
}

names! {
    SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap
    SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl
    SYS_access SYS_pipe SYS_dup SYS_dup2 SYS_nanosleep SYS_getpid SYS_sendfile SYS_socket SYS_connect
    SYS_accept SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind SYS_listen
    SYS_socketpair SYS_setsockopt SYS_clone SYS_fork SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill
    SYS_uname SYS_fcntl SYS_flock SYS_ftruncate SYS_getcwd SYS_chdir SYS_fchdir SYS_rename SYS_mkdir
    SYS_rmdir SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_fchmod SYS_chown SYS_fchown SYS_umask
    SYS_getrlimit SYS_getuid SYS_getgid SYS_setuid SYS_setgid SYS_geteuid SYS_getegid SYS_setpgid
    SYS_setsid SYS_setgroups SYS_setresuid SYS_setresgid SYS_capget SYS_capset SYS_sigaltstack
    SYS_personality SYS_statfs SYS_fstatfs SYS_prctl SYS_arch_prctl SYS_chroot SYS_mount SYS_umount2
    SYS_pivot_root SYS_sethostname SYS_setdomainname SYS_gettid SYS_futex SYS_sched_setaffinity
    SYS_sched_getaffinity SYS_set_tid_address SYS_clock_nanosleep SYS_exit_group SYS_waitid SYS_add_key
    SYS_keyctl SYS_openat SYS_mkdirat SYS_mknodat SYS_fchownat SYS_newfstatat SYS_unlinkat
    SYS_renameat SYS_renameat2 SYS_symlinkat SYS_readlinkat SYS_fchmodat SYS_faccessat SYS_ppoll
    SYS_unshare SYS_set_robust_list SYS_accept4 SYS_dup3 SYS_pipe2 SYS_prlimit64 SYS_setns
    SYS_process_vm_writev SYS_getrandom SYS_memfd_create SYS_bpf SYS_execveat SYS_statx SYS_rseq
    SYS_pidfd_send_signal SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
    SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
    SYS_mount_setattr SYS_seccomp SYS_getdents64 SYS_signalfd4 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_wait SYS_splice SYS_copy_file_range SYS_tgkill SYS_getppid SYS_getpgid SYS_getsid
    SYS_getsockopt SYS_getsockname SYS_fadvise64 SYS_fgetxattr SYS_fsetxattr SYS_mremap SYS_madvise
}
