//! Cores of the machine that this process may use, and pinning to one of them.

use core_affinity::CoreId;

/// The cores that this process may run on, ascending; empty when the kernel does not tell.
pub fn usable_cores() -> Vec<usize> {
    core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect()
}

/// Pins the calling thread, and what it starts from now on, to one core. False when the kernel refuses.
pub fn pin_to(core: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: core })
}
