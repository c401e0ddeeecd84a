use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use runtime::{
    Call, Context, CreateOptions, Error, ErrorKind, Facility, Failing, Findings, Standing, Start,
    check_bundle, check_host, load_config, quote,
};
use serde_json::json;

use crate::environment::Environment;
use crate::program::Failure;
use crate::session::Session;
use crate::table::{Format, printable};
use crate::{criu, output, rootless, table};

/// Say what this host can do, or what of a bundle would fail on it
#[derive(Debug, Args)]
#[command(
    after_help = "With a bundle nothing is made, written or executed: what `run` would fail with is \
                  listed, the first first, as far as it shows without doing it.\n\nThe exit status is 0 when a container would start, \
                  1 when not. Warnings do not count."
)]
pub struct Check {
    /// table or json
    #[arg(value_name = "format", long, short, default_value = "table")]
    format: String,
    /// A bundle to try without running it
    #[arg(value_name = "bundle")]
    bundle: Option<PathBuf>,
}

impl super::Command for Check {
    const NAME: &'static str = "check";
    const ARITY: super::Arity = super::Arity::Between(0, 1);

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let format = Format::parse(&self.format)?;
        let environment = Environment::read();
        match &self.bundle {
            None => host(format, session, &environment),
            Some(bundle) => {
                let path =
                    fs::canonicalize(bundle).call("open").context("open bundle", quote(bundle))?;
                self::bundle(format, path, session, &environment)
            }
        }
    }
}

fn host(format: Format, session: &Session, environment: &Environment) -> Result<u8, Failure> {
    let mut facilities = check_host(&environment.path, &environment.service_manager())?;
    facilities.push(criu::facility(session.criu.as_deref(), &environment.path));
    let starts = !facilities.iter().any(|f| f.needed && f.standing == Standing::Missing);
    output::write(&match format {
        Format::Table => table::render(&facility_rows(&facilities)),
        Format::Json => output::json(&json!({ "starts": starts, "host": facilities }))? + "\n",
    })?;
    Ok(u8::from(!starts))
}

/// A table's rows, for people.
pub fn facility_rows(facilities: &[Facility]) -> Vec<[String; 4]> {
    let header = ["FACILITY", "STATUS", "FOUND", "WHAT IS MISSING"].map(str::to_owned);
    let rows = facilities.iter().map(|facility| {
        [
            facility.name.to_owned(),
            format!("{:?}", facility.standing).to_lowercase(),
            printable(&facility.found),
            printable(&facility.advice),
        ]
    });
    [header].into_iter().chain(rows).collect()
}

fn bundle(
    format: Format,
    bundle: PathBuf,
    session: &Session,
    environment: &Environment,
) -> Result<u8, Failure> {
    let mut warnings = Vec::new();
    let mut findings = match load_config(&bundle, &mut warnings) {
        Ok(mut config) => {
            rootless::complete(&mut config.spec, session.rootless);
            let mut options = CreateOptions::new(config, bundle.clone(), Start::Here);
            options.systemd_cgroup = session.systemd_cgroup.then(|| environment.service_manager());
            options.no_cgroup = session.no_cgroup;
            options.rootless = session.rootless;
            let id = format!("check-{}", std::process::id());
            check_bundle(&session.root, &id, &options, &environment.path)?
        }
        // What cannot be read as a configuration cannot be looked at any further.
        Err(error) => Findings { failures: vec![Failing::of(error)], ..Findings::default() },
    };
    findings.warnings.splice(0..0, warnings);
    let starts = findings.failures.is_empty();
    output::write(&match format {
        Format::Table => bundle_table(&bundle, &findings),
        Format::Json => bundle_json(&bundle, &findings)?,
    })?;
    Ok(u8::from(!starts))
}

fn bundle_table(bundle: &Path, findings: &Findings) -> String {
    let header = ["FIELD", "RESULT", "REASON"].map(str::to_owned);
    let mut rows = vec![header];
    for Failing { field, error } in &findings.failures {
        let reason = Failure::from(error.clone()).text();
        rows.push([printable(field), "fails".to_owned(), printable(&reason)]);
    }
    for warning in &findings.warnings {
        rows.push([String::new(), "warning".to_owned(), printable(warning)]);
    }
    let verdict = match findings.failures.len() {
        0 => "a container would start".to_owned(),
        count => format!("no container would start, for {count} reason(s)"),
    };
    let table = if rows.len() > 1 { table::render(&rows) } else { String::new() };
    format!("{table}{}: {verdict}\n", quote(bundle))
}

fn bundle_json(bundle: &Path, findings: &Findings) -> Result<String, Failure> {
    let failure = |Failing { field, error }: &Failing| json!({ "field": field, "kind": kind(error), "error": Failure::from(error.clone()).text() });
    let document = json!({
        "bundle": bundle.to_string_lossy(),
        "starts": findings.failures.is_empty(),
        "failures": findings.failures.iter().map(failure).collect::<Vec<_>>(),
        "warnings": findings.warnings,
    });
    Ok(output::json(&document)? + "\n")
}

/// What a program may branch on.
fn kind(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Exec => "exec",
        _ => "system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_text() {
        let mut findings = Findings::default();
        assert_eq!(bundle_table(Path::new("/b"), &findings), "\"/b\": a container would start\n");
        findings.failures.push(Failing::of(Error::invalid("process.args", "is empty\u{1b}[m")));
        findings.warnings.push("odd".to_owned());
        let text = bundle_table(Path::new("/b"), &findings);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("process.args") && lines[1].contains("fails"), "{text}");
        assert!(lines[1].ends_with("is empty\\u{1b}[m"), "{text}");
        assert!(lines[2].contains("warning") && lines[2].ends_with("odd"), "{text}");
        assert_eq!(lines[3], "\"/b\": no container would start, for 1 reason(s)");
    }
}
