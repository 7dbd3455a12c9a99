//! The settings in writing: the template and `docs/settings.md`, both from the declarations.

use std::fmt::Write as _;

use super::declare::{Describe as _, Entry, Section};
use super::env::variable;
use super::settings::Settings;

const TEMPLATE_HEAD: &str = "\
# Settings of threepid. What is commented out shows the default, or an example where there is none.
# A setting can be given by an environment variable, too, which is stronger than this file:
# THREEPID_<SECTION>__<NAME>, such as THREEPID_MAIL__FROM or THREEPID_MAIL__SMTP__PASSWORD.
# Check with: threepid config check
";

const PAGE_HEAD: &str = "\
# Settings

Settings come from a TOML file (`--config PATH` or `THREEPID_CONFIG`) and from environment variables, which are
stronger. `threepid config template` prints a file with every setting, `threepid config check` reads yours and says what
is wrong with it. Times are written as `\"30s\"`, `\"10m\"`, `\"1h 30m\"` or `\"0s\"`. In an environment variable text is written
without quotes; lists are written as in TOML. Relative paths start at the folder the server was started in.

This page is written by `threepid config template --markdown` from the declarations in `apps/server/src/config`.
";

/// Every section, in the order of its declaration.
pub(crate) fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    Settings::describe(Vec::new(), &[], &mut sections);
    sections
}

/// A settings file with every setting, commented out where it has a default.
pub(crate) fn template() -> String {
    let mut text = TEMPLATE_HEAD.to_owned();
    for section in sections() {
        text.push('\n');
        comment(&mut text, section.doc);
        if !section.path.is_empty() {
            let _ = writeln!(text, "[{}]", section.path.join("."));
        }
        for entry in &section.entries {
            comment(&mut text, entry.doc);
            // The one that is always required is the one that stands there to be changed.
            let mark = if entry.name == "public_base_url" { "" } else { "#" };
            let _ = writeln!(text, "{mark}{} = {}", entry.name, shown(entry));
        }
    }
    text
}

/// The page for people.
pub(crate) fn markdown() -> String {
    let mut text = PAGE_HEAD.to_owned();
    for section in sections() {
        if !section.path.is_empty() {
            let _ = write!(text, "\n## [{}]\n\n{}\n", section.path.join("."), prose(section.doc));
        }
        for entry in &section.entries {
            let key = section.key(entry);
            let (name, value) = match &entry.default {
                Some(default) if entry.example.is_none() => ("Default", default.as_str()),
                _ => ("No default; for example", entry.example.unwrap_or_default()),
            };
            let _ = write!(
                text,
                "\n### `{key}`\n\n{}\n\n- Wants: {}\n- {name}: `{value}`\n- Environment: `{}`\n",
                prose(entry.doc),
                entry.wants,
                variable(&key),
            );
        }
    }
    text
}

fn shown(entry: &Entry) -> &str {
    entry.example.or(entry.default.as_deref()).unwrap_or_default()
}

fn comment(text: &mut String, doc: &[&str]) {
    for line in doc {
        let _ = writeln!(text, "# {}", line.trim());
    }
}

fn prose(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn the_template_reads_back_as_the_defaults() -> Outcome {
        let mut read: Settings = Figment::from(Toml::string(&template())).extract()?;
        assert!(read.public_base_url.take().is_some());
        assert_eq!(read, Settings::default());
        Ok(())
    }

    #[test]
    fn every_line_of_the_template_can_be_uncommented() -> Outcome {
        let uncommented: Vec<_> = template()
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned()
            })
            .collect();
        let read: Settings = Figment::from(Toml::string(&uncommented.join("\n"))).extract()?;
        assert!(
            read.mail.from.is_some() && read.mail.smtp.password.is_some() && read.addresses.allow.len() == 2
        );
        Ok(())
    }

    #[test]
    fn every_default_is_what_the_template_says_it_is() -> Outcome {
        let only_defaults: Vec<_> = sections()
            .iter()
            .flat_map(|section| {
                let defaults = section.entries.iter().filter_map(|entry| {
                    entry.default.as_ref().map(|value| format!("{} = {value}", section.key(entry)))
                });
                defaults.collect::<Vec<_>>()
            })
            .collect();
        let read: Settings = Figment::from(Toml::string(&only_defaults.join("\n"))).extract()?;
        assert_eq!(read, Settings::default());
        Ok(())
    }

    #[test]
    fn the_page_in_docs_is_the_page_of_the_declarations() -> Outcome {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md"))?;
        assert!(
            page == markdown(),
            "docs/settings.md is old; run: cargo run -p threepid-server -- config template --markdown > docs/settings.md"
        );
        Ok(())
    }
}
