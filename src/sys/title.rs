//! The title that `ps` shows: the kernel reads it from where it put the arguments and the environment of the program.
//!
//! That memory is taken over once, at the start of `main`, after the environment was copied elsewhere.

use std::ffi::{CStr, c_char};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::process::Stat;

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

static START: AtomicUsize = AtomicUsize::new(0);
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static WRITER: Mutex<()> = Mutex::new(());

/// Takes over the memory of arguments and environment. To be called once, with a single thread, after
/// `std::env::args` was collected; without it, or when /proc is missing, [`set`] does nothing.
pub fn prepare() {
    let Some((start, end)) = area() else { return };
    copy_environment();
    START.store(start, Ordering::Relaxed);
    LENGTH.store(end - start, Ordering::Relaxed);
}

/// Where the kernel keeps arguments and environment, which follow each other.
fn area() -> Option<(usize, usize)> {
    let stat = Stat::own()?;
    let field = |number| stat.field::<usize>(number);
    // proc(5).
    let (arg_start, arg_end) = (field(48)?, field(49)?);
    let (env_start, env_end) = (field(50)?, field(51)?);
    let sound =
        arg_start != 0 && arg_start < arg_end && arg_end == env_start && env_start <= env_end;
    sound.then_some((arg_start, env_end))
}

fn copy_environment() {
    let mut copies = Vec::new();
    // SAFETY: single-threaded at this point (contract of `prepare`); `environ` is a null-terminated array of
    // C strings. The copies are leaked on purpose: the environment lives as long as the program.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            copies.push(CStr::from_ptr(*entry).to_owned().into_raw());
            entry = entry.add(1);
        }
        copies.push(std::ptr::null_mut());
        environ = Box::leak(copies.into_boxed_slice()).as_mut_ptr();
    }
}

/// Shows `title` in place of the command line, cut to the room there is.
pub fn set(title: &str) {
    let (start, length) = (
        START.load(Ordering::Relaxed),
        LENGTH.load(Ordering::Relaxed),
    );
    if length < 2 {
        return;
    }
    let Ok(_one_writer) = WRITER.lock() else {
        return;
    };
    let shown = title.len().min(length - 1);
    // SAFETY: the area belongs to this process, is writable and unused since `prepare`; one thread writes at a time.
    unsafe {
        let area = start as *mut u8;
        std::ptr::copy_nonoverlapping(title.as_ptr(), area, shown);
        std::ptr::write_bytes(area.add(shown), 0, length - shown);
    }
}
