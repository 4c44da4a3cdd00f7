//! The shapes from start to end, as an operator runs them.

use std::process::Command;

#[test]
fn a_quick_run_of_two_shapes_keeps_its_samples_and_prints_them_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("shapes.json");
    let bench = || Command::new(env!("CARGO_BIN_EXE_vestibule-bench"));
    let run = bench()
        .args(["shapes", "--quick", "--sets", "shapes", "--shapes", "readiness,ring-multishot"])
        .args(["--trials", "bulk-up,bulk-down,messages,idle", "--json"])
        .arg(&file)
        .output()
        .expect("the bench starts");
    let printed = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{printed}\n{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(printed.matches("| 4 of 4").count(), 2, "{printed}");

    let text = std::fs::read(&file).expect("the file was written");
    let results: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    assert!(results["machine"]["kernel"].is_string());
    let samples = results["samples"].as_array().expect("samples are a list");
    assert_eq!(samples.len(), 8);
    for sample in samples {
        let process = &sample["outcome"]["processes"][0];
        assert_eq!(process["name"], sample["shape"]);
        let cpu_ns = |moment: &str| process[moment]["cpu_ns"].as_u64();
        assert!(cpu_ns("end") > cpu_ns("ready") && cpu_ns("ready").is_some(), "{sample}");
    }

    let kept = bench().args(["shapes", "--kept"]).arg(&file).output().expect("the bench starts");
    assert!(kept.status.success());
    assert_eq!(String::from_utf8_lossy(&kept.stdout), printed);
}

#[test]
fn a_setting_that_a_shape_does_not_have_is_refused() {
    let run = Command::new(env!("CARGO_BIN_EXE_vestibule-bench"))
        .args(["shape", "--shape", "tokio-uring", "--turn", "64"])
        .args(["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1"])
        .output()
        .expect("the bench starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && said.contains("tokio-uring has no --turn"), "{said}");
}
