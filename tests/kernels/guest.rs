//! One virtual machine: a kernel, a file system in memory with our binaries, a console to be read.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The oldest series that is supported.
pub(super) const OLDEST: &str = "6.1";
/// A recent one.
pub(super) const RECENT: &str = "6.12";
/// The newest that Debian builds for a release.
pub(super) const NEWEST: &str = "newest";
/// Those of Debian 12.
pub(super) const KERNELS: [&str; 2] = [OLDEST, RECENT];

/// What tests run besides, if it is here.
const OTHER_PROGRAMS: [&str; 2] = ["/usr/bin/curl", "/usr/bin/openssl"];
/// Set in a guest, to the series of its kernel.
const HERE: &str = "VESTIBULE_GUEST";
/// Folders of modules that a guest gets: TLS of the kernel, and what it seals with.
const MODULES: [&str; 4] = ["net/tls", "crypto", "arch/x86/crypto", "lib/crypto"];
/// Has tests run in one kernel alone.
const ONE_KERNEL: &str = "VESTIBULE_GUEST_KERNEL";
/// What the guest says last, with the exit status of its tests.
const LAST_WORDS: &str = "guest: the tests ended with ";
/// An emulated machine is some thirty times slower than this one: a hang fails the test, slowness does not.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Lines at the end of the console that a failed test shows.
const SHOWN_LINES: usize = 400;

/// Of the kernel. An emulated processor has none of the faults that kernels work around; its counter of time is
/// good, and a kernel that doubts it asks a device for the time instead; and the emulator has to translate a program
/// that lies at another address anew.
const PARAMETERS: &str = "console=ttyS0 panic=-1 quiet mitigations=off norandmaps tsc=reliable";

/// Whether this process runs in a guest.
pub(super) fn is_here() -> bool {
    env::var_os(HERE).is_some()
}

/// Of these kernels the one that the environment names, if it names one.
pub(super) fn chosen(kernels: &[&'static str]) -> Vec<&'static str> {
    let one = env::var(ONE_KERNEL).ok();
    kernels
        .iter()
        .copied()
        .filter(|kernel| one.as_deref().is_none_or(|one| one == *kernel))
        .collect()
}

/// Whether TLS of this kernel takes a second key, as it does from Linux 6.14 on.
pub(super) fn takes_new_keys() -> bool {
    env::var(HERE).is_ok_and(|series| series == NEWEST)
}

/// A virtual machine that runs this very test binary. Killed when dropped.
pub(super) struct Guest {
    kernel: &'static str,
    qemu: Child,
    console: Receiver<String>,
    /// Holds its file system.
    _folder: TempDir,
}

impl Guest {
    /// Boots it, to run the tests that these arguments of the test binary choose, with these variables set.
    ///
    /// # Panics
    /// Where something is missing that it needs.
    pub(super) fn start(
        kernel: &'static str,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let image = root().join("target/kernels").join(kernel).join("vmlinuz");
        assert!(image.exists(), "there is no {}: run tests/kernels/fetch", image.display());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = pack(folder.path(), kernel, variables, arguments);
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-cpu", "max", "-smp", "2", "-m", "3072", "-nographic", "-no-reboot"])
            .args(["-nic", "none", "-append", PARAMETERS])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(disk)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86 is installed");
        let output = BufReader::new(qemu.stdout.take().expect("it is piped"));
        let (lines, console) = channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                // The test has ended.
                if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { kernel, qemu, console, _folder: folder }
    }

    /// Waits until its tests have ended, and returns what they printed.
    ///
    /// # Panics
    /// Where they failed, or the machine stopped before; shows the end of its console.
    pub(super) fn expect_success(self) -> Vec<String> {
        let start = Instant::now();
        let mut lines = Vec::new();
        let result = loop {
            match self.console.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    // Not by a macro, whose lines are kept back until the test has ended.
                    let _ = writeln!(io::stderr(), "{}: {line}", self.kernel);
                    if let Some((_, status)) = line.split_once(LAST_WORDS) {
                        break status.to_owned();
                    }
                    lines.push(line);
                }
                Err(RecvTimeoutError::Timeout) => break format!("none within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    break "none: the machine stopped".to_owned();
                }
            }
        };
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        assert_eq!(result, "0", "exit status of the tests on Linux {}\n{shown}", self.kernel);
        lines
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have stopped by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Packs the guest's file system, and returns the file.
fn pack(folder: &Path, kernel: &str, variables: &[(&str, &str)], arguments: &[&str]) -> PathBuf {
    let top = folder.join("root");
    for name in ["bin", "dev", "proc", "sys", "tmp", "run", "etc"] {
        fs::create_dir_all(top.join(name)).expect("room for a folder");
    }
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    fs::write(top.join("bin/busybox"), busybox).expect("room for busybox");
    fs::write(top.join("etc/passwd"), "root:x:0:0:root:/tmp:/bin/sh\n").expect("room for a file");
    let tests = env::current_exe().expect("this binary has a path");
    // In the places that they have here: the tests know the program by its path.
    let own = [tests.as_path(), Path::new(env!("CARGO_BIN_EXE_vestibule"))];
    let others = OTHER_PROGRAMS.map(Path::new).into_iter().filter(|program| program.exists());
    for program in own.into_iter().chain(others) {
        let copy = inside(&top, program);
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program));
        for library in libraries(program) {
            fs::copy(&library, inside(&top, &library)).expect("room for a library");
        }
    }
    copy_modules(&top, kernel);
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // The root is in memory already: nothing is mounted on /tmp, where these binaries may be.
    let init = format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/tmp {HERE}={kernel} {}
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
ip link set lo up
echo /bin/modprobe >/proc/sys/kernel/modprobe
depmod && modprobe aesni-intel
ulimit -n 20000
cd /tmp
{} {} --test-threads=2 --nocapture
echo \"{LAST_WORDS}$?\"
poweroff -f
",
        variables.join(" "),
        tests.display(),
        arguments.join(" "),
    );
    fs::write(top.join("init"), init).expect("room for a script");
    let disk = folder.join("disk.cpio");
    let pack = format!(
        "chmod 755 {top}/init {top}/bin/busybox && cd {top} && find . | cpio --quiet -o -H newc > {disk}",
        top = top.display(),
        disk = disk.display(),
    );
    run(Command::new("sh").args(["-c", &pack]));
    disk
}

/// Puts modules where the guest's kernel looks for them.
fn copy_modules(top: &Path, kernel: &str) {
    let fetched = root().join("target/kernels").join(kernel);
    let release = fs::read_to_string(fetched.join("release")).expect("tests/kernels/fetch says it");
    let modules = top.join("lib/modules").join(release.trim());
    for name in MODULES {
        let from = fetched.join("modules/kernel").join(name);
        let to = modules.join("kernel").join(name);
        if from.exists() {
            fs::create_dir_all(to.parent().expect("it has one")).expect("room for a folder");
            run(Command::new("cp").arg("-r").arg(from).arg(to));
        }
    }
    let unpack = "find \"$0\" -name '*.ko.xz' -exec xz --decompress {} +";
    run(Command::new("sh").args(["-c", unpack]).arg(modules));
}

/// Where a file of this machine is in the guest, in a folder that exists.
fn inside(top: &Path, file: &Path) -> PathBuf {
    let place = top.join(file.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(place.parent().expect("a file is in a folder")).expect("room for a folder");
    place
}

/// What a program is linked to, the loader included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
