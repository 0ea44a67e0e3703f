//! `mcrd check` as its users see it: what is printed where, and the exit code. It needs no daemon and no rights.

use std::{
    fs::{self, File},
    io::Write,
    process::{Command, Output, Stdio},
};

const RULE: &str = "[[rule]]\nname = \"video\"\ninput = \"239.1.1.1:5000@eth0\"\n\
                    outputs = [\"239.2.2.2:6000@eth1,ttl=16\", \"10.100.0.2:6000\"]\n";

/// Has a configuration checked; what came of it, and the file it was in.
fn check(text: &str) -> (Output, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mcr.toml");
    fs::write(&file, text).expect("it is ours");
    let output = Command::new(env!("CARGO_BIN_EXE_mcrd")).arg("check").arg(&file).output();
    (output.expect("mcrd starts"), file.display().to_string())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_good_configuration_is_counted_on_standard_output_and_nothing_else_is_said() {
    let (output, file) = check(RULE);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("{file}: 1 rules with 2 outputs, no errors\n"));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn an_error_is_told_on_standard_error_with_its_file_line_and_key() {
    let (output, file) = check(&RULE.replace("ttl=16", "tll=16"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    for part in [file.as_str(), ":4", "outputs", "tll"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_names_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_mcrd")).args(["check", "/proc/nothing/mcr.toml"]).output();
    let output = output.expect("mcrd starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/proc/nothing/mcr.toml"), "{}", text(&output.stderr));
}

#[test]
fn a_dash_reads_standard_input() {
    for (given, code, said) in
        [(RULE, 0, "standard input: 1 rules"), ("wrokers = 2\n", 2, "standard input:1: key `wrokers`")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcrd"));
        command.args(["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("mcrd starts");
        child.stdin.take().expect("piped").write_all(given.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!((text(&output.stdout) + &text(&output.stderr)).contains(said), "{output:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let output = Command::new(env!("CARGO_BIN_EXE_mcrd")).args(["check", "/dev/null"]).stdout(full).output();
    let output = output.expect("mcrd starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output"), "{}", text(&output.stderr));
}
