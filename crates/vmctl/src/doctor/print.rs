//! Findings as a person reads them on a terminal, as a line each anywhere else, and as JSON: `docs/schema/doctor.json`
//! describes it. Pure.

use config::json::Value;

use super::host::Caller;
use super::judge::{Finding, Verdict};
use crate::progress::shown;

/// Where the second column begins, and the third.
const VERDICT: usize = 8;
const ID: usize = 16;

/// How the findings are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table with colours.
    Table,
    /// Text, a line for each.
    Lines,
    /// JSON.
    Json,
}

/// Whether VMs can run, by what was found.
pub fn can_run(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict < Verdict::Fault)
}

/// The text in that form, with its newline.
pub fn text(form: Form, caller: &Caller, findings: &[Finding]) -> String {
    match form {
        Form::Json => format!("{}\n", json(caller, findings)),
        Form::Table => findings.iter().map(row).chain([summary(findings)]).collect(),
        Form::Lines => findings.iter().map(line).chain([summary(findings)]).collect(),
    }
}

/// Text of the host's on one line, which commands no terminal.
fn plain(text: &str) -> String {
    shown(text).replace('\n', " ")
}

fn line(finding: &Finding) -> String {
    let Finding { id, verdict, seen, advice } = finding;
    let advice = advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("{}\n", plain(&format!("{}: {id}: {seen}{advice}", verdict.word())))
}

fn row(finding: &Finding) -> String {
    let Finding { id, verdict, seen, advice } = finding;
    let (seen, advice) = (plain(seen), advice.as_deref().map(plain));
    let word = verdict.word();
    let colour = match verdict {
        Verdict::Ok => "32",
        Verdict::Note => "36",
        Verdict::Warning => "33",
        Verdict::Fault => "31",
    };
    let advice = advice.map(|advice| format!("{:1$}{advice}\n", "", VERDICT + ID)).unwrap_or_default();
    format!("\x1b[{colour}m{word:<VERDICT$}\x1b[m{id:<ID$}{seen}\n{advice}")
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let counted = |verdict: Verdict| match count(verdict) {
        1 => format!("1 {}", verdict.word()),
        many => format!("{many} {}s", verdict.word()),
    };
    let can = if can_run(findings) { "VMs can run here" } else { "VMs can't run here" };
    format!("{can}: {}, {}, {}\n", counted(Verdict::Fault), counted(Verdict::Warning), counted(Verdict::Note))
}

fn json(caller: &Caller, findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        Value::Object(vec![
            ("id", finding.id.into()),
            ("verdict", finding.verdict.word().into()),
            ("seen", Value::text(&finding.seen)),
            ("advice", finding.advice.clone().into()),
        ])
    };
    Value::Object(vec![
        ("user", Value::Object(vec![("uid", caller.uid.into()), ("name", Value::text(&caller.name))])),
        ("can_run", can_run(findings).into()),
        ("findings", Value::list(findings.iter().map(finding))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let of = |id, verdict, seen: &str, advice: Option<&str>| Finding {
            id,
            verdict,
            seen: seen.to_owned(),
            advice: advice.map(str::to_owned),
        };
        vec![
            of("kernel", Verdict::Ok, "Linux 6.1 on x86_64", None),
            of("kvm-device", Verdict::Fault, "/dev/kvm: not there", Some("load KVM")),
        ]
    }

    fn printed(form: Form) -> String {
        let caller = Caller { uid: 0, name: "root".to_owned(), groups: vec![], capabilities: 0 };
        text(form, &caller, &findings())
    }

    #[test]
    fn a_line_for_each_finding_and_what_they_come_to() {
        let expected = "ok: kernel: Linux 6.1 on x86_64\nfault: kvm-device: /dev/kvm: not there; load KVM\n\
                        VMs can't run here: 1 fault, 0 warnings, 0 notes\n";
        assert_eq!(printed(Form::Lines), expected);
    }

    #[test]
    fn a_table_has_columns_and_what_to_do_below() {
        let expected = "\x1b[32mok      \x1b[mkernel          Linux 6.1 on x86_64\n\
                        \x1b[31mfault   \x1b[mkvm-device      /dev/kvm: not there\n                        load KVM\n\
                        VMs can't run here: 1 fault, 0 warnings, 0 notes\n";
        assert_eq!(printed(Form::Table), expected);
    }

    #[test]
    fn json_holds_the_same() {
        let read: serde_json::Value = serde_json::from_str(&printed(Form::Json)).expect("JSON");
        let expected = serde_json::json!({
            "user": { "uid": 0, "name": "root" },
            "can_run": false,
            "findings": [
                { "id": "kernel", "verdict": "ok", "seen": "Linux 6.1 on x86_64", "advice": null },
                { "id": "kvm-device", "verdict": "fault", "seen": "/dev/kvm: not there", "advice": "load KVM" },
            ]
        });
        assert_eq!(read, expected);
    }
}
