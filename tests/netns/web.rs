//! A real nginx in the lan, and a real curl on the internet.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use super::network::{DMZ_OUTSIDE, DMZ_OUTSIDE_V6, output};
use super::process::{Process, wait_for_port};
use super::site::{H2C_BACKEND, HTTP_BACKEND, Site};

/// Bytes of the files that go each way: 1 GB, unless `VESTIBULE_TRANSFER_MB` says less.
fn transfer_len() -> u64 {
    let megabytes = std::env::var("VESTIBULE_TRANSFER_MB");
    let megabytes = megabytes.map(|number| number.parse::<u64>().expect("a number of megabytes"));
    megabytes.unwrap_or(1_000) * 1_000_000
}

/// HTTP/1.1 on one port and HTTP/2 without TLS on the other, which serve and take files. One worker
/// that runs as root, since the temporary folder is root's.
const NGINX: &str = r"
user root;
worker_processes 1;
daemon off;
pid FOLDER/nginx.pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_max_body_size 0;
    client_body_temp_path FOLDER/nginx-body;
    proxy_temp_path FOLDER/nginx-proxy;
    fastcgi_temp_path FOLDER/nginx-fastcgi;
    uwsgi_temp_path FOLDER/nginx-uwsgi;
    scgi_temp_path FOLDER/nginx-scgi;
    server {
        listen HTTP;
        listen H2C http2;
        root FOLDER/www;
        dav_methods PUT;
    }
}
";

fn start_nginx(site: &Site) -> Process {
    let config = NGINX
        .replace("FOLDER", &site.folder().display().to_string())
        .replace("HTTP", &HTTP_BACKEND.to_string())
        .replace("H2C", &H2C_BACKEND.to_string());
    std::fs::write(site.path("nginx.conf"), config).expect("room for a file");
    let mut nginx = site.network.lan.command("nginx");
    nginx.arg("-e").arg("stderr").arg("-c").arg(site.path("nginx.conf"));
    let nginx = Process::start("nginx", site.folder(), &mut nginx);
    wait_for_port(&site.network.lan, HTTP_BACKEND);
    wait_for_port(&site.network.lan, H2C_BACKEND);
    nginx
}

/// On the internet, with the device's certificate.
fn curl(site: &Site, version: &str, gateway: std::net::IpAddr) -> Command {
    let mut curl = site.network.internet.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "600", version]);
    curl.args(["--write-out", "HTTP/%{http_version} %{http_code}"]);
    curl.arg("--cacert").arg(site.path("gateways-ca.crt"));
    curl.arg("--cert").arg(site.path("device.example.com.crt"));
    curl.arg("--key").arg(site.path("device.example.com.key"));
    curl.args(["--resolve", &format!("web.example.com:13000:{gateway}")]);
    curl
}

fn write_random(path: &Path, len: u64) {
    let mut random = File::open("/dev/urandom").expect("every Linux has it").take(len);
    let mut file = File::create(path).expect("room for a file");
    io::copy(&mut random, &mut file).expect("room for a file");
}

fn sha256(path: &Path) -> String {
    let line = output(Command::new("sha256sum").arg(path));
    line.split(' ').next().expect("a sum").to_owned()
}

/// Downloads and uploads a file over one version of HTTP, and compares the sums.
fn carries_files_whole(version: &str, expected: &str) {
    Site::test(|site| {
        std::fs::create_dir(site.path("www")).expect("a folder");
        let _nginx = start_nginx(site);
        let (original, down) = (site.path("www/down"), site.path("down"));
        write_random(&original, transfer_len());
        let sum = sha256(&original);

        let mut download = curl(site, version, DMZ_OUTSIDE);
        download.arg("--output").arg(&down);
        let said = output(download.arg("https://web.example.com:13000/down"));
        assert_eq!(said, format!("{expected} 200"));
        assert_eq!(sha256(&down), sum, "downloaded");

        let mut upload = curl(site, version, DMZ_OUTSIDE);
        upload.arg("--upload-file").arg(&down);
        let said = output(upload.arg("https://web.example.com:13000/up"));
        assert_eq!(said, format!("{expected} 201"));
        assert_eq!(sha256(&site.path("www/up")), sum, "uploaded");
        site.wait_until_at_rest();
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn curl_moves_files_over_http_1_1_both_ways_whole() {
    carries_files_whole("--http1.1", "HTTP/1.1");
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn curl_moves_files_over_http_2_both_ways_whole() {
    carries_files_whole("--http2", "HTTP/2");
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn an_agent_with_ipv6_only_reaches_the_lan() {
    Site::test(|site| {
        std::fs::create_dir(site.path("www")).expect("a folder");
        std::fs::write(site.path("www/page"), "from the lan").expect("room for a file");
        let _nginx = start_nginx(site);
        let mut curl = curl(site, "--http2", DMZ_OUTSIDE_V6);
        let said = output(curl.arg("https://web.example.com:13000/page"));
        assert_eq!(said, "from the lanHTTP/2 200");
    });
}

#[test]
#[ignore = "needs root, network namespaces, nftables, nginx, openssh"]
fn a_device_without_a_certificate_reaches_nothing() {
    Site::test(|site| {
        std::fs::create_dir(site.path("www")).expect("a folder");
        let _nginx = start_nginx(site);
        let mut curl = site.network.internet.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"]);
        curl.arg("--cacert").arg(site.path("gateways-ca.crt"));
        curl.args(["--resolve", &format!("web.example.com:13000:{DMZ_OUTSIDE}")]);
        let answer = curl.arg("https://web.example.com:13000/").output().expect("it is installed");
        let complaint = String::from_utf8_lossy(&answer.stderr);
        assert!(complaint.contains("certificate required"), "{complaint}");
        assert_eq!(site.gateway_status().totals.bytes_to_server, 0);
    });
}
