//! Settings from the environment: `THREEPID_<SECTION>__<NAME>`, upper case, `__` between the parts of the name.
//!
//! A setting that is text is taken as it stands, so that a password of digits stays a text; any other is read as TOML.

use std::ffi::OsString;

use figment::value::{Dict, Map, Value};
use figment::{Error, Metadata, Profile, Provider};

use super::declare::Section;

/// The prefix of every variable.
pub(crate) const PREFIX: &str = "THREEPID_";

/// The variable that names the settings file; it is no setting.
pub(crate) const CONFIG: &str = "THREEPID_CONFIG";

/// The variable of a setting.
pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// A source of settings.
pub(crate) struct Environment {
    values: Vec<(String, Value)>,
}

impl Environment {
    /// The settings among `variables`; those with another prefix are none of ours.
    ///
    /// # Errors
    /// The variable that has our prefix and is no setting, or is no text.
    pub(crate) fn new(
        sections: &[Section],
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, (String, String)> {
        let mut values = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && *name != CONFIG) else {
                continue;
            };
            let settings = sections.iter().flat_map(|section| {
                section.entries.iter().map(move |entry| (section.key(entry), entry.quoted))
            });
            let Some((key, quoted)) = settings.into_iter().find(|(key, _)| variable(key) == name) else {
                return Err((name.to_owned(), "is no setting".to_owned()));
            };
            let Some(text) = value.to_str() else {
                return Err((name.to_owned(), "is not valid UTF-8".to_owned()));
            };
            // What cannot be read as TOML is read as text, never refused here: it fails where its type is known.
            let value =
                if quoted { Value::from(text) } else { text.parse().unwrap_or_else(|error| match error {}) };
            values.push((key, value));
        }
        Ok(Self { values })
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment")
            .interpolater(|_: &Profile, keys: &[&str]| variable(&keys.join(".")))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut dict = Dict::new();
        for (key, value) in &self.values {
            insert(&mut dict, key, value.clone());
        }
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Sets `key`, whose parts are divided by dots.
fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let below = dict.entry(section.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, below) = below {
                insert(below, rest, value);
            }
        }
    }
}
