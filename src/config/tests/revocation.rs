//! Who names lists of revoked certificates says what they are for, and what could never work is refused.

use super::super::*;
use super::{LISTENER, SERVERS, SERVICE, gateway};

/// What is wrong with a gateway whose listener and `[servers]` have these keys as well.
fn problems(listener: &str, servers: &str) -> Vec<String> {
    let servers = SERVERS.replace("[servers]\n", &format!("[servers]\n{servers}\n"));
    match gateway(&format!("{LISTENER}{listener}\n{servers}{SERVICE}")) {
        Ok(checked) => {
            assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
            Vec::new()
        }
        Err(problems) => problems.problems().iter().map(Problem::to_line).collect(),
    }
}

fn assert_one(listener: &str, servers: &str, part: &str) {
    let found = problems(listener, servers);
    assert!(found.len() == 1 && found[0].contains(part), "{listener} {servers}: {found:#?}");
}

const FILE: &str = "device_crls = [\"a.crl\"]";

#[test]
fn without_a_word_of_lists_none_is_looked_at() {
    let Checked { config, .. } = gateway(&format!("{LISTENER}{SERVERS}{SERVICE}")).expect("sound");
    assert_eq!(config.servers.revocation, RevocationRules::default());
    assert!(!config.servers.bring_crls);
    let ListenerKind::Tls { device_revocation, .. } = &config.listeners[0].kind else {
        panic!("a TLS listener")
    };
    assert_eq!(device_revocation.policy, RevocationPolicy::Off);
}

#[test]
fn who_names_a_list_or_has_them_brought_says_what_they_are_for() {
    assert_one(FILE, "", "missing key `device_revocation`: write \"known\"");
    assert_one("", "crls = [\"a.crl\"]", "missing key `revocation`: write \"known\"");
    let bring = "bring_crls = true\nrevocation = \"off\"";
    assert_one("", bring, "missing key `device_revocation`");
    for policy in ["known", "required"] {
        let key = format!("device_revocation = \"{policy}\"");
        assert_eq!(problems(&format!("{FILE}\n{key}"), ""), Vec::<String>::new());
        assert_eq!(problems(&key, bring), Vec::<String>::new());
    }
    assert_one(
        &format!("{FILE}\ndevice_revocation = \"of\""),
        "",
        "write one of \"off\", \"known\"",
    );
}

#[test]
fn what_could_never_work_is_refused() {
    assert_one("device_revocation = \"known\"", "", "no list will ever be there");
    assert_one(&format!("{FILE}\ndevice_revocation = \"off\""), "", "has no effect with \"off\"");
    let required = "bring_crls = true\nrevocation = \"required\"";
    let known = "device_revocation = \"known\"";
    assert_one(known, required, "no server could come to bring the first list");
    assert_eq!(problems(known, &format!("{required}\ncrls = [\"a.crl\"]")), Vec::<String>::new());
    let nobody = "bring_crls = true\nrevocation = \"off\"";
    assert_one("device_revocation = \"off\"", nobody, "`bring_crls` has no effect");
    let many: Vec<String> = (0..17).map(|number| format!("\"{number}.crl\"")).collect();
    let many = format!("device_crls = [{}]\ndevice_revocation = \"known\"", many.join(", "));
    assert_one(&many, "", "names more than 16 files");
}

#[test]
fn a_listener_that_asks_for_no_certificate_takes_no_lists() {
    let listener = LISTENER
        .replace("\"required\"", "\"none\"")
        .replace("device_ca = \"devices.crt\"", "device_crls = [\"a.crl\"]");
    let text = format!("{listener}{SERVERS}{SERVICE}devices = \"any\"\n");
    let problems = gateway(&text).expect_err("no effect");
    let found: Vec<String> = problems.problems().iter().map(Problem::to_line).collect();
    assert!(found.len() == 1 && found[0].contains("no certificate is asked for"), "{found:?}");
}
