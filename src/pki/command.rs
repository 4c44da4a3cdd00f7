use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write as _};
use std::path::{Path, PathBuf};

use clap::value_parser;

use super::authority::{LEAF_DAYS, Leaf, Pki, Role};
use super::error::PkiError;
use super::files::{NewFile, make_folder, write_new};
use super::name::SubjectName;
use super::renew::{Key, Renewable};
use super::request::SigningRequest;
use super::revoke::{LIST_DAYS, WrittenList};
use super::show::describe;

/// Longest answer that is read to a question.
const MAX_ANSWER_LEN: u64 = 64;

/// Days left below which a certificate is renewed that was not named.
const RENEW_WITHIN_DAYS: u32 = 30;

/// Makes, renews and shows certificates.
#[derive(Debug, clap::Subcommand)]
pub enum PkiCommand {
    /// Make the three CAs: of gateways, of servers, of devices
    #[command(after_help = "Example:\n  vestibule pki init --dir pki")]
    Init {
        /// Folder for the CAs; made if it does not exist
        #[arg(long, value_name = "FOLDER", default_value = "pki")]
        dir: PathBuf,
    },
    /// Make a key and a certificate for a gateway
    #[command(after_help = "Examples:\n  vestibule pki gateway gw.example.com\n  \
        vestibule pki gateway gw.example.com gw2.example.com --ip 203.0.113.7")]
    Gateway {
        /// Names by which agents and servers dial it; the first names the files
        #[arg(required = true, value_name = "NAME")]
        names: Vec<SubjectName>,
        /// Address by which it is dialled; may be repeated
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<std::net::IpAddr>,
        /// How and where.
        #[command(flatten)]
        options: LeafOptions,
    },
    /// Make a key and a certificate for a server
    #[command(after_help = "Example:\n  vestibule pki server lan1.example.com --out /root/lan1")]
    Server {
        /// DNS name, as the gateway's list of allowed servers has it
        name: SubjectName,
        /// How and where.
        #[command(flatten)]
        options: LeafOptions,
    },
    /// Make a key and a certificate for a device
    #[command(after_help = "Examples:\n  vestibule pki device pc-17.example.com\n  \
        vestibule pki device email:jo@example.com --days 90")]
    Device {
        /// DNS name, uri:... or email:...
        name: SubjectName,
        /// How and where.
        #[command(flatten)]
        options: LeafOptions,
    },
    /// Make a certificate for a key that stays where it is, from its signing request
    #[command(after_help = "Examples:\n  \
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \\\n    \
        -keyout pc-17.key -subj /CN=pc-17.example.com -out pc-17.csr\n  \
        vestibule pki sign --csr pc-17.csr --role device --name pc-17.example.com")]
    Sign {
        /// The request, in PEM
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
        /// What the certificate is for
        #[arg(long)]
        role: Role,
        /// Name for the certificate; may be repeated. Without it, those of the request, if agreed
        #[arg(long, value_name = "NAME")]
        name: Vec<SubjectName>,
        /// Agree to the names of the request without being asked
        #[arg(long)]
        yes: bool,
        /// How and where.
        #[command(flatten)]
        options: LeafOptions,
    },
    /// Renew certificates in their place: the same names, by the same CA, with a new key
    #[command(after_help = "Examples:\n  vestibule pki renew pki/gw.example.com.crt\n  \
        vestibule pki renew --within 30            all in the folder that end within 30 days\n  \
        vestibule pki renew --keep-key pki/pc-17.example.com.crt\n\n\
        A gateway or server that runs reads its renewed files by itself.")]
    Renew {
        /// Certificates, in PEM, each with its key beside it; without any, all in the folder
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Leave out those that have more days than this left; 30 where no file is named
        #[arg(long, value_name = "DAYS")]
        within: Option<u32>,
        /// Certify the key that is there, which may also be on another host
        #[arg(long)]
        keep_key: bool,
        /// How and where.
        #[command(flatten)]
        options: LeafOptions,
    },
    /// Revoke certificates: their CA's list (CRL) says so from then on
    #[command(after_help = "Example:\n  vestibule pki revoke pki/pc-17.example.com.crt\n\n\
        The list is pki/devices-ca.crl. Servers bring it to their gateways (crls in server.toml), which end \
        the sessions of what it revokes.")]
    Revoke {
        /// Certificates, in PEM; their keys are not needed
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where, and for how long.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Make the lists of revoked certificates (CRL) anew, before they are stale
    #[command(
        after_help = "Examples:\n  vestibule pki crl                      those of devices and of servers\n  \
        vestibule pki crl --role device --days 7\n\n\
        A timer does it best: each day, for lists that live for a week."
    )]
    Crl {
        /// Whose; may be repeated. Without it, those of devices and of servers
        #[arg(long)]
        role: Vec<Role>,
        /// Where, and for how long.
        #[command(flatten)]
        options: ListOptions,
    },
    /// Show what is in a file of certificates, or of lists of revoked ones
    #[command(after_help = "Examples:\n  vestibule pki show pki/gw.example.com.crt\n  \
        vestibule pki show pki/devices-ca.crl")]
    Show {
        /// Certificates in PEM, or lists in PEM or DER
        file: PathBuf,
    },
}

/// What all commands for a certificate share.
#[derive(Debug, Clone, clap::Args)]
pub struct LeafOptions {
    /// Folder of the CAs
    #[arg(long, value_name = "FOLDER", default_value = "pki")]
    pub dir: PathBuf,
    /// Folder for the new files, or of those to renew; that of the CAs unless given
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Days until it expires
    #[arg(long, default_value_t = LEAF_DAYS, value_parser = value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// What the commands for lists of revoked certificates share.
#[derive(Debug, Clone, clap::Args)]
pub struct ListOptions {
    /// Folder of the CAs
    #[arg(long, value_name = "FOLDER", default_value = "pki")]
    pub dir: PathBuf,
    /// Days until the next list is due: from then on this one is stale
    #[arg(long, default_value_t = LIST_DAYS, value_parser = value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

impl LeafOptions {
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(&self.dir)
    }
}

/// Runs one command and prints what it made and the next step.
pub fn run(command: PkiCommand) -> Result<(), PkiError> {
    let report = execute(command, &mut ask_on_terminal)?;
    io::stdout().write_all(report.as_bytes()).map_err(PkiError::Output)
}

/// Runs one command; `ask` puts a question with yes or no to the operator. Returns what to print.
fn execute(
    command: PkiCommand,
    ask: &mut dyn FnMut(&str) -> Result<bool, PkiError>,
) -> Result<String, PkiError> {
    match command {
        PkiCommand::Init { dir } => init(&dir),
        PkiCommand::Gateway { mut names, ip, options } => {
            names.extend(ip.into_iter().map(SubjectName::Ip));
            issue(Role::Gateway, names, &options)
        }
        PkiCommand::Server { name, options } => issue(Role::Server, vec![name], &options),
        PkiCommand::Device { name, options } => issue(Role::Device, vec![name], &options),
        PkiCommand::Sign { csr, role, name, yes, options } => {
            let request = SigningRequest::read(&csr)?;
            let names = if name.is_empty() { request.names()?.to_vec() } else { name.clone() };
            let question = format!("Sign for {role} {}?", list(&names));
            if name.is_empty() && !yes && !names.is_empty() && !ask(&question)? {
                return Err(PkiError::NotConfirmed);
            }
            sign(&request, &Leaf { role, names, days: options.days }, &options)
        }
        PkiCommand::Renew { files, within, keep_key, options } => {
            let key = if keep_key { Key::Kept } else { Key::New };
            renew(&files, within, key, &options)
        }
        PkiCommand::Revoke { files, options } => revoke(&files, &options),
        PkiCommand::Crl { role, options } => renew_lists(&role, &options),
        PkiCommand::Show { file } => describe(&file),
    }
}

fn init(dir: &Path) -> Result<String, PkiError> {
    let pki = Pki::create(dir)?;
    let mut report = String::new();
    for role in Role::ALL {
        let (certificate, key) = (pki.ca_certificate(role), pki.ca_key(role));
        push_line(&mut report, &format!("wrote {} and {}", certificate.display(), key.display()));
    }
    push_line(
        &mut report,
        "The .key files can make any certificate: keep this folder off the DMZ.",
    );
    let dir = dir.display();
    push_line(&mut report, &format!("Next: vestibule pki gateway gw.example.com --dir {dir}"));
    Ok(report)
}

fn issue(role: Role, names: Vec<SubjectName>, options: &LeafOptions) -> Result<String, PkiError> {
    let leaf = Leaf { role, names, days: options.days };
    let pki = Pki::open(&options.dir);
    let issued = pki.issue(&leaf)?;
    let (certificate, key) = issued.write(options.out(), &leaf.names[0])?;
    let mut report = String::new();
    push_line(&mut report, &format!("wrote {} and {}", certificate.display(), key.display()));
    push_line(&mut report, &summary(&leaf));
    push_line(&mut report, &next_step(&pki, role, "both files"));
    Ok(report)
}

fn sign(request: &SigningRequest, leaf: &Leaf, options: &LeafOptions) -> Result<String, PkiError> {
    let pki = Pki::open(&options.dir);
    let contents = pki.sign(request, leaf)?;
    make_folder(options.out())?;
    let path = options.out().join(format!("{}.crt", leaf.names[0].file_stem()));
    write_new(&[NewFile { path: path.clone(), contents, secret: false }])?;
    let mut report = String::new();
    push_line(&mut report, &format!("wrote {}", path.display()));
    push_line(&mut report, &summary(leaf));
    push_line(&mut report, &next_step(&pki, leaf.role, "it"));
    Ok(report)
}

fn renew(
    files: &[PathBuf],
    within: Option<u32>,
    key: Key,
    options: &LeafOptions,
) -> Result<String, PkiError> {
    let pki = Pki::open(&options.dir);
    let (found, within) = if files.is_empty() {
        (Renewable::all_in(options.out(), &pki)?, Some(within.unwrap_or(RENEW_WITHIN_DAYS)))
    } else {
        let read = files.iter().map(|file| Renewable::read(file, &pki));
        (read.collect::<Result<Vec<_>, _>>()?, within)
    };
    let is_due = |found: &Renewable| within.is_none_or(|days| found.days_left() < days.into());
    let (due, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(is_due);
    let mut report = String::new();
    for found in &due {
        let leaf = found.renew(&pki, key, options.days)?;
        let path = found.path().display();
        push_line(&mut report, &format!("renewed {path}, {}", summary(&leaf)));
    }
    let kept = rest.len();
    push_line(&mut report, &format!("{} renewed, {kept} with enough days left", due.len()));
    if !due.is_empty() {
        let files = if key == Key::Kept { "each" } else { "each with its key" };
        push_line(
            &mut report,
            &format!(
                "Next: copy {files} to its host, if it is another. A gateway or server reads it by \
                 itself; an agent needs a restart."
            ),
        );
    }
    Ok(report)
}

fn revoke(files: &[PathBuf], options: &ListOptions) -> Result<String, PkiError> {
    let pki = Pki::open(&options.dir);
    let (mut report, mut lists) = (String::new(), Vec::new());
    for file in files {
        let written = pki.revoke(file, options.days)?;
        let word = if written.is_new { "revoked" } else { "was revoked before:" };
        push_line(&mut report, &format!("{word} {}", file.display()));
        lists.retain(|list: &WrittenList| list.path != written.path);
        lists.push(written);
    }
    push_lists(&mut report, &lists, options.days);
    Ok(report)
}

fn renew_lists(roles: &[Role], options: &ListOptions) -> Result<String, PkiError> {
    let pki = Pki::open(&options.dir);
    let roles = if roles.is_empty() { &[Role::Device, Role::Server] } else { roles };
    let lists = roles.iter().map(|role| pki.renew_list(*role, options.days));
    let lists = lists.collect::<Result<Vec<_>, _>>()?;
    let mut report = String::new();
    push_lists(&mut report, &lists, options.days);
    Ok(report)
}

fn push_lists(report: &mut String, lists: &[WrittenList], days: u32) {
    for WrittenList { path, entries, .. } in lists {
        let path = path.display();
        push_line(report, &format!("wrote {path}: {entries} revoked, the next due in {days} days"));
    }
    push_line(
        report,
        "Next: copy it to each server, which brings it to its gateways (crls in server.toml), or to the \
         gateways (device_crls of a listener, crls of [servers]). They read it by themselves.",
    );
}

fn summary(leaf: &Leaf) -> String {
    format!("for {} {}, valid for {} days", leaf.role, list(&leaf.names), leaf.days)
}

/// Where the new files belong, and which CAs its holder needs beside them, under which keys.
fn next_step(pki: &Pki, role: Role, files: &str) -> String {
    let ca = |role| pki.ca_certificate(role).display().to_string();
    let (host, config, roots) = match role {
        Role::Gateway => (
            "gateway",
            "gateway.toml",
            format!("{} (device_ca) and {} ([servers] ca)", ca(Role::Device), ca(Role::Server)),
        ),
        Role::Server => ("server", "server.toml", format!("{} (gateway_ca)", ca(Role::Gateway))),
        Role::Device => ("device", "agent.toml", format!("{} (gateway_ca)", ca(Role::Gateway))),
    };
    format!(
        "Next: copy {files} to the {host}, with {roots}; name them in {config}; then run \
         vestibule check {config} there."
    )
}

fn list(names: &[SubjectName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn push_line(report: &mut String, line: &str) {
    writeln!(report, "{line}").expect("a String grows as needed");
}

fn ask_on_terminal(question: &str) -> Result<bool, PkiError> {
    write!(io::stderr(), "{question} [y/N] ").map_err(PkiError::Output)?;
    let mut answer = String::new();
    let mut input = io::stdin().lock().take(MAX_ANSWER_LEN);
    // An answer that can't be read is not a yes.
    if input.read_line(&mut answer).is_err() {
        return Ok(false);
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: PkiCommand,
    }

    fn run_line(line: &str, agree: bool) -> Result<String, PkiError> {
        let words = std::iter::once("pki").chain(line.split(' '));
        let command = Line::try_parse_from(words).expect("a command line").command;
        execute(command, &mut |_| Ok(agree))
    }

    /// A folder with CAs, and a request in it that asks for far too much.
    fn folder_with_greedy_request() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run_line(&format!("init --dir {}", folder.path().display()), false).expect("made");
        let mut params = CertificateParams::new(["pc.example.com".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "administrator");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        std::fs::write(folder.path().join("a.csr"), request).expect("written");
        folder
    }

    #[test]
    fn only_the_key_and_the_agreed_names_of_a_request_are_signed() {
        let folder = folder_with_greedy_request();
        let dir = folder.path().display();
        run_line(&format!("sign --csr {dir}/a.csr --role device --dir {dir}"), true).expect("made");

        let shown = run_line(&format!("show {dir}/pc.example.com.crt"), false).expect("shown");

        assert!(shown.contains("server or device (clientAuth)"), "{shown}");
        assert!(shown.contains("names        pc.example.com\n"), "{shown}");
        assert!(shown.contains("EC, 384 bits"), "{shown}");
        assert!(!shown.contains("administrator"), "{shown}");
    }

    #[test]
    fn names_of_a_request_are_not_signed_without_consent() {
        let folder = folder_with_greedy_request();
        let dir = folder.path().display();
        let result = run_line(&format!("sign --csr {dir}/a.csr --role device --dir {dir}"), false);
        assert!(matches!(result, Err(PkiError::NotConfirmed)));
        assert!(!folder.path().join("pc.example.com.crt").exists());
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let folder = folder_with_greedy_request();
        let path = folder.path().join("a.csr");
        let pem = std::fs::read_to_string(&path).expect("readable");
        let (at, letter) = pem.char_indices().nth(pem.len() / 2).expect("a long text");
        let other = if letter == 'A' { "B" } else { "A" };
        let forged = [&pem[..at], other, &pem[at + 1..]].concat();
        std::fs::write(&path, forged).expect("written");
        assert!(matches!(SigningRequest::read(&path), Err(PkiError::Request { .. })));
    }

    #[test]
    fn every_command_says_what_it_wrote_and_what_comes_next() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().display();
        for line in [
            "init",
            "gateway gw.example.com --ip 127.0.0.1",
            "server lan.example.com",
            "device pc.example.com --days 30",
        ] {
            let report = run_line(&format!("{line} --dir {dir}"), false).expect("made");
            assert!(report.contains(".crt and ") && report.contains("\nNext: "), "{report}");
        }
    }

    #[test]
    fn renew_takes_those_that_end_soon_and_says_how_many_it_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().display();
        for line in
            ["init", "gateway gw.example.com", "server lan --days 20", "device pc --days 29"]
        {
            run_line(&format!("{line} --dir {dir}"), false).expect("made");
        }
        let report = run_line(&format!("renew --dir {dir}"), false).expect("renewed");
        assert!(report.contains("lan.crt, for server lan, valid for 365 days\n"), "{report}");
        assert!(report.contains("pc.crt, for device pc, "), "{report}");
        assert!(report.contains("\n2 renewed, 1 with enough days left\n"), "{report}");
        let report = run_line(&format!("renew --dir {dir}"), false).expect("nothing to do");
        assert_eq!(report, "0 renewed, 3 with enough days left\n");
        let line = format!("renew {dir}/gw.example.com.crt --keep-key --days 10 --dir {dir}");
        let report = run_line(&line, false).expect("renewed");
        assert!(report.starts_with("renewed ") && report.contains("valid for 10 days"), "{report}");
    }

    #[test]
    #[ignore = "needs the openssl command"]
    fn openssl_accepts_each_certificate_for_its_purpose_and_from_its_ca_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().display();
        for line in ["init", "gateway gw.example.com", "server lan", "device email:jo@example.com"]
        {
            run_line(&format!("{line} --dir {dir}"), false).expect("made");
        }
        let verify = |ca: &str, purpose: &str, leaf: &str| {
            let ca = folder.path().join(ca);
            let output = std::process::Command::new("openssl")
                .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
                .args([ca, folder.path().join(leaf)])
                .output()
                .expect("openssl is there");
            output.status.success()
        };
        assert!(verify("gateways-ca.crt", "sslserver", "gw.example.com.crt"));
        assert!(verify("servers-ca.crt", "sslclient", "lan.crt"));
        assert!(verify("devices-ca.crt", "sslclient", "email-jo@example.com.crt"));
        assert!(!verify("gateways-ca.crt", "sslclient", "gw.example.com.crt"));
        assert!(!verify("gateways-ca.crt", "sslclient", "lan.crt"));
    }
}
