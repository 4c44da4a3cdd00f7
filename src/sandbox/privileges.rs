//! What a process may be, whatever it does: no more rights by a program, no core file, no capability.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// `PR_SET_NO_NEW_PRIVS`. Landlock and seccomp need it as well.
pub(super) fn refuse_new() -> Result<(), String> {
    set_no_new_privs(true).map_err(|error| format!("the kernel refuses it ({error})"))
}

/// No core file, also where `core_pattern` names a program, which no limit stops (`core(5)`). Then no other
/// process of the same user may read this one's memory either; root may.
pub(super) fn refuse_core_dumps() -> Result<(), String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| format!("the kernel refuses it ({error})"))
}

/// Drops every capability of the calling thread, or all but the one for ports below 1024, if it is there.
pub(super) fn drop_capabilities(keep_binding: bool) -> Result<(), String> {
    let refused = |error| format!("the kernel refuses it ({error})");
    let wanted =
        if keep_binding { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
    let held = capabilities(None).map_err(refused)?;
    let kept = held.permitted & wanted;
    let inheritable = CapabilitySet::empty();
    let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable };
    if held == wanted {
        // The filter of a unit may refuse the calls below; none held are none ambient either.
        return Ok(());
    }
    clear_ambient_capability_set().map_err(refused)?;
    set_capabilities(None, wanted).map_err(refused)
}
