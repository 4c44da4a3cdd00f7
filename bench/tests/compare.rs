//! The bench from start to end, as an operator runs it, with the one target that needs nothing
//! else.

use std::process::Command;

#[test]
fn a_run_measures_both_directions_keeps_its_samples_and_prints_them_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("results.json");
    let bench = || Command::new(env!("CARGO_BIN_EXE_vestibule-bench"));

    let run = bench()
        .args(["compare", "--quick", "--runs", "2", "--targets", "floor"])
        .args(["--scenarios", "bulk-up,bulk-down", "--json"])
        .arg(&file)
        .output()
        .expect("the bench starts");
    let printed = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{printed}\n{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(printed.matches("| 2 of 2").count(), 2, "{printed}");

    let text = std::fs::read(&file).expect("the file was written");
    let results: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    let samples = results["samples"].as_array().expect("samples are a list");
    assert_eq!(samples.len(), 4);
    for sample in samples {
        let outcome = &sample["outcome"];
        let cpu_ns = |moment: &str| outcome["processes"][0][moment]["cpu_ns"].as_u64();
        assert!(cpu_ns("end") > cpu_ns("ready") && cpu_ns("ready").is_some(), "{sample}");
    }

    let table = bench().arg("table").arg(&file).output().expect("the bench starts");
    assert!(table.status.success());
    assert_eq!(String::from_utf8_lossy(&table.stdout), printed);
}

#[test]
fn a_target_that_can_not_be_started_is_an_error_and_no_empty_figure() {
    let run = Command::new(env!("CARGO_BIN_EXE_vestibule-bench"))
        .args(["compare", "--quick", "--targets", "vestibule", "--scenarios", "bulk-up"])
        .args(["--vestibule", "/nonexistent/vestibule"])
        .output()
        .expect("the bench starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && said.contains("/nonexistent/vestibule"), "{said}");
}
