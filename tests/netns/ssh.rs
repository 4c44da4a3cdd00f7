//! A real sshd in the lan, reached by a real ssh through `vestibule agent`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::network::output;
use super::process::{Process, wait_for_port};
use super::site::{AGENT_SSH_PORT, SSH_BACKEND, Site};

/// Keys, configuration and known hosts are the test's own: nothing of this machine's is read.
const SSHD: &str = "
ListenAddress ADDRESS
HostKey FOLDER/host-key
AuthorizedKeysFile FOLDER/user-key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
";

fn start_sshd(site: &Site) -> Process {
    for key in ["host-key", "user-key"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(site.path(key));
        output(&mut keygen);
    }
    let host_key = fs::read_to_string(site.path("host-key.pub")).expect("it was made");
    let known = format!("[127.0.0.1]:{AGENT_SSH_PORT} {host_key}");
    fs::write(site.path("known-hosts"), known).expect("room for a file");
    let config = SSHD
        .replace("FOLDER", &site.folder().display().to_string())
        .replace("ADDRESS", &SSH_BACKEND.to_string());
    fs::write(site.path("sshd.conf"), config).expect("room for a file");
    // Where sshd locks itself in before a user is known; Debian makes it when it starts the service.
    fs::create_dir_all("/run/sshd").expect("root may");
    let mut sshd = site.network.lan.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(site.path("sshd.conf"));
    let sshd = Process::start("sshd", site.folder(), &mut sshd);
    wait_for_port(&site.network.lan, SSH_BACKEND);
    sshd
}

/// `ssh` or `scp` on the internet, to the agent's local port.
fn client(site: &Site, program: &str) -> Command {
    let mut client = site.network.internet.command(program);
    client.args(["-q", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
    client.args(["-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=60"]);
    client.arg("-o").arg(format!("UserKnownHostsFile={}", site.path("known-hosts").display()));
    client.arg("-o").arg(format!("Port={AGENT_SSH_PORT}"));
    client.arg("-i").arg(site.path("user-key"));
    client
}

/// A tree as people have it: small files, an empty one, a larger one, folders in folders.
fn make_folder(folder: &Path) {
    for depth in 0..20 {
        let inner = folder.join(format!("year {}", depth / 5)).join(format!("part-{depth}"));
        fs::create_dir_all(&inner).expect("a folder");
        for number in 0..10 {
            let mut bytes = vec![0; 4_999 * number * (depth + 1) / 10];
            aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
            fs::write(inner.join(format!("file {number}")), bytes).expect("room for a file");
        }
    }
    let mut large = vec![0; 32 << 20];
    aws_lc_rs::rand::fill(&mut large).expect("random bytes");
    fs::write(folder.join("large"), large).expect("room for a file");
}

/// The sum of each file, by its path within the folder.
fn sums(folder: &Path) -> String {
    let mut find = Command::new("find");
    find.current_dir(folder).args([".", "-type", "f", "-exec", "sha256sum", "{}", "+"]);
    let text = output(&mut find);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable_by_key(|line| line.split_once(' '));
    assert_eq!(lines.len(), 201);
    lines.join("\n")
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn ssh_runs_a_command_and_scp_copies_a_folder_both_ways_through_an_agent() {
    Site::test(|site| {
        let _sshd = start_sshd(site);
        let _agent = site.start_agent();
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), AGENT_SSH_PORT);
        wait_for_port(&site.network.internet, local);

        let mut ssh = client(site, "ssh");
        let said = output(ssh.args(["root@127.0.0.1", "ip -brief address show dev firewall"]));
        assert!(said.contains("10.99.0.2/24"), "it ran in the lan: {said}");

        let folder = site.path("folder");
        make_folder(&folder);
        let there = site.path("copy in the lan");
        let back = site.path("copy on the internet");
        let remote = format!("root@127.0.0.1:{}", there.display());
        output(client(site, "scp").arg("-r").arg(&folder).arg(&remote));
        assert_eq!(sums(&there), sums(&folder), "inward");
        output(client(site, "scp").arg("-r").arg(&remote).arg(&back));
        assert_eq!(sums(&back), sums(&folder), "outward");
        site.wait_until_at_rest();
    });
}
