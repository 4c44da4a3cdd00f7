//! Landlock: which files may be read, and which TCP ports be connected to and listened on. Its checks are
//! those of a security module, so operations of a ring meet them too (`landlock(7)`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::part::Steps;
use super::{Needs, Part};
use crate::uring;

/// Files of this process itself: its memory and descriptors, for the metrics.
const OWN_PROCESS: &str = "/proc/self";
/// What libc reads to look a name up, or where that may lie: its modules, and files which are replaced
/// while the process runs, so that their folder has to be allowed.
const NAME_FOLDERS: [&str; 9] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/resolvconf",
    "/run/systemd/resolve",
];

/// What the threads of this process are bound by.
pub(super) struct Domain {
    parts: Vec<Part>,
    _kernels_own: KernelsOwn,
}

/// What is read of `/proc`. Kept open: a rule belongs to this very entry, which the kernel could otherwise
/// forget and make anew.
struct KernelsOwn {
    process: Option<PathFd>,
    /// Says who refuses rings.
    ring_setting: Option<PathFd>,
}

/// Binds the calling thread, and those that it starts from now on.
pub(super) fn enter(needs: &Needs, steps: &mut Steps<'_>) -> Option<Domain> {
    let parts = [Part::Files, Part::Tcp, Part::Scope];
    let wanted: Vec<Part> = parts.into_iter().filter(|&part| steps.wants(part)).collect();
    let kernels_own = KernelsOwn {
        process: PathFd::new(OWN_PROCESS).ok(),
        ring_setting: PathFd::new(uring::SETTING_FILE).ok(),
    };
    let restricted = restrict(needs, &wanted, &kernels_own);
    let mut on = Vec::new();
    for part in parts {
        let reached = || match &restricted {
            Ok(status) => judge(part, status),
            Err(error) => Err(format!("the kernel refuses it ({error})")),
        };
        if steps.take(part, reached).is_some() {
            on.push(part);
        }
    }
    (!on.is_empty()).then_some(Domain { parts: on, _kernels_own: kernels_own })
}

impl Domain {
    /// Those that are on.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Lets the calling thread, and those that it starts, listen on no further TCP port.
    pub(super) fn refuse_binding(&self) -> Result<(), RulesetError> {
        if self.parts.contains(&Part::Tcp) {
            Ruleset::default().handle_access(AccessNet::BindTcp)?.create()?.restrict_self()?;
        }
        Ok(())
    }
}

fn restrict(
    needs: &Needs,
    wanted: &[Part],
    kernels_own: &KernelsOwn,
) -> Result<LandlockStatus, RulesetError> {
    if wanted.is_empty() {
        return Ok(LandlockStatus::NotEnabled);
    }
    let mut ruleset = Ruleset::default();
    if wanted.contains(&Part::Files) {
        ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V6))?;
    }
    if wanted.contains(&Part::Tcp) {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if wanted.contains(&Part::Scope) {
        ruleset = ruleset.scope(Scope::from_all(ABI::V6))?;
    }
    let mut ruleset = ruleset.create()?;
    if wanted.contains(&Part::Files) {
        let read_file: BitFlags<AccessFs> = AccessFs::ReadFile.into();
        for path in readable(needs) {
            // What is not there can't be read either, and whoever needs it says so.
            let Ok(place) = PathFd::new(&path) else { continue };
            ruleset = ruleset.add_rule(PathBeneath::new(place, read_file))?;
        }
        if let Some(place) = needs.writes_in.as_ref().and_then(|folder| PathFd::new(folder).ok()) {
            let access = read_file | writing();
            ruleset = ruleset.add_rule(PathBeneath::new(place, access))?;
        }
        let KernelsOwn { process, ring_setting } = kernels_own;
        let own = [(process, read_file | AccessFs::ReadDir), (ring_setting, read_file)];
        for (place, access) in own {
            if let Some(place) = place {
                ruleset = ruleset.add_rule(PathBeneath::new(place, access))?;
            }
        }
    }
    if wanted.contains(&Part::Tcp) {
        for &port in &needs.connect {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(ruleset.restrict_self()?.landlock)
}

/// Files of the folder that they are in, which is itself read to be flushed.
fn writing() -> BitFlags<AccessFs> {
    use AccessFs::{MakeReg, ReadDir, RemoveFile, Truncate, WriteFile};
    WriteFile | MakeReg | RemoveFile | Truncate | ReadDir
}

/// Whether the kernel knows a part; an error says why not, and what to change.
fn judge(part: Part, status: &LandlockStatus) -> Result<(), String> {
    let (abi, since, linux) = match part {
        Part::Tcp => (ABI::V4, "TCP rules", "6.7"),
        Part::Scope => (ABI::V6, "scopes", "6.12"),
        _ => (ABI::V1, "Landlock", "5.13"),
    };
    match status {
        LandlockStatus::Available { effective_abi, .. } if *effective_abi >= abi => Ok(()),
        LandlockStatus::Available { .. } => {
            Err(format!("Landlock has {since} from Linux {linux} on: take a newer kernel"))
        }
        LandlockStatus::NotEnabled => {
            Err("Landlock is not enabled: add `landlock` to the kernel's parameter `lsm=`"
                .to_owned())
        }
        LandlockStatus::NotImplemented => Err(
            "this kernel was built without Landlock, or a container's seccomp profile refuses it"
                .to_owned(),
        ),
    }
}

/// Folders and files to read. A file is replaced by another of its name, or by a link that is turned, so
/// the folder of each is allowed, with that of what it links to.
fn readable(needs: &Needs) -> BTreeSet<PathBuf> {
    let mut places = BTreeSet::new();
    for file in &needs.files {
        let Ok(target) = file.canonicalize() else { continue };
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let folders = [folder.canonicalize().ok(), target.parent().map(Path::to_owned)];
        for folder in folders.into_iter().flatten() {
            places.insert(if is_shared(&folder) { target.clone() } else { folder });
        }
    }
    if needs.names {
        places.extend(NAME_FOLDERS.map(PathBuf::from));
    }
    places
}

/// `/` and the folders in it hold too much that is not ours.
fn is_shared(folder: &Path) -> bool {
    folder.components().count() <= 2
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::Role;

    fn needs(files: &[PathBuf], names: bool) -> Needs {
        Needs {
            role: Role::Gateway,
            files: files.iter().cloned().collect(),
            writes_in: None,
            names,
            connect: BTreeSet::new(),
            binds_privileged_port: false,
            passes_descriptors: false,
            splices: false,
            kernel_tls: false,
        }
    }

    #[test]
    fn the_folder_of_a_file_and_of_what_it_links_to_are_readable() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().canonicalize().expect("it is there").join(name);
        for name in ["live", "archive"] {
            fs::create_dir(path(name)).expect("a new folder");
        }
        fs::write(path("archive/gw1.pem"), "one").expect("writable");
        symlink("../archive/gw1.pem", path("live/gw.pem")).expect("a new link");
        let places = readable(&needs(&[path("live/gw.pem"), path("not-there/gw.pem")], false));
        assert_eq!(places, BTreeSet::from([path("live"), path("archive")]));
    }

    #[test]
    fn of_a_folder_that_all_share_the_file_alone_is_readable() {
        let places = readable(&needs(&["/etc/hostname".into()], false));
        assert!(!places.contains(Path::new("/etc")), "{places:?}");
        assert!(is_shared(Path::new("/")) && !is_shared(Path::new("/etc/vestibule")));
    }

    #[test]
    fn names_need_the_files_of_libc() {
        assert!(readable(&needs(&[], true)).contains(Path::new("/etc")));
        assert!(readable(&needs(&[], false)).is_empty());
    }

    #[test]
    fn an_older_kernel_is_told_what_it_lacks() {
        let old = LandlockStatus::Available { effective_abi: ABI::V2, kernel_abi: None };
        assert_eq!(judge(Part::Files, &old), Ok(()));
        let why = judge(Part::Tcp, &old).expect_err("too old");
        assert!(why.contains("Linux 6.7"), "{why}");
        let why = judge(Part::Files, &LandlockStatus::NotEnabled).expect_err("off");
        assert!(why.contains("lsm="), "{why}");
    }
}
