//! How a setting is declared: once, with its documentation, its type and its default.
//!
//! [`settings!`](settings) makes of one declaration the struct that is read, its defaults, and the description that the
//! template and `docs/settings.md` are written from. So none of them can fall behind another.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A value that a setting can have.
pub(crate) trait Value {
    /// What the setting wants, in a few words.
    const WANTS: &'static str;
    /// Whether it is written in quotes in TOML. Then an environment variable is taken as it stands; any other is read
    /// as TOML.
    const QUOTED: bool;

    /// The value as TOML; `None` where there is none.
    fn toml(&self) -> Option<String>;
}

/// Text in quotes. JSON's escapes are TOML's, too.
pub(crate) fn quoted(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

macro_rules! plain_value {
    ($($type:ty: $wants:literal, $quoted:literal, $value:ident => $toml:expr;)*) => {$(
        impl Value for $type {
            const WANTS: &'static str = $wants;
            const QUOTED: bool = $quoted;

            fn toml(&self) -> Option<String> {
                let $value = self;
                $toml
            }
        }
    )*};
}

plain_value! {
    String: "text", true, text => quoted(text);
    PathBuf: "path", true, path => quoted(&path.to_string_lossy());
    SocketAddr: "IP address and port", true, address => quoted(&address.to_string());
    u16: "whole number up to 65535", false, number => Some(number.to_string());
    u32: "whole number", false, number => Some(number.to_string());
    usize: "whole number", false, number => Some(number.to_string());
    bool: "true or false", false, flag => Some(flag.to_string());
    f64: "number", false, number => Some(format!("{number:?}"));
}

impl<T: Value> Value for Option<T> {
    const WANTS: &'static str = T::WANTS;
    const QUOTED: bool = T::QUOTED;

    fn toml(&self) -> Option<String> {
        self.as_ref().and_then(Value::toml)
    }
}

impl<T: Value> Value for Vec<T> {
    const WANTS: &'static str = T::WANTS;
    /// The list itself stands in brackets.
    const QUOTED: bool = false;

    fn toml(&self) -> Option<String> {
        let items: Vec<_> = self.iter().filter_map(Value::toml).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// One setting, described.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name inside its section.
    pub(crate) name: &'static str,
    /// Its documentation, line by line.
    pub(crate) doc: &'static [&'static str],
    /// What it wants.
    pub(crate) wants: &'static str,
    /// See [`Value::QUOTED`].
    pub(crate) quoted: bool,
    /// Its default as TOML.
    pub(crate) default: Option<String>,
    /// An example as TOML, where there is no default.
    pub(crate) example: Option<&'static str>,
}

/// A table of settings, described.
#[derive(Debug)]
pub(crate) struct Section {
    /// Where it stands, outermost first; empty for the settings outside any table.
    pub(crate) path: Vec<&'static str>,
    /// Its documentation, line by line.
    pub(crate) doc: &'static [&'static str],
    /// Its settings.
    pub(crate) entries: Vec<Entry>,
}

impl Section {
    /// A setting's full name.
    pub(crate) fn key(&self, entry: &Entry) -> String {
        self.path.iter().chain([&entry.name]).copied().collect::<Vec<_>>().join(".")
    }
}

/// A struct of settings that can describe itself.
pub(crate) trait Describe {
    /// Appends this section and those below it.
    fn describe(path: Vec<&'static str>, doc: &'static [&'static str], sections: &mut Vec<Section>);
}

/// Declares a struct of settings: `name: Type = default,` for each, `=> "example"` where there is no default.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr $(=> $example:literal)?, )*
        }
        $( sections { $( $(#[doc = $section_doc:literal])+ $section:ident: $section_type:ty, )+ } )?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize)]
        #[cfg_attr(test, derive(PartialEq))]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $name {
            $( $(#[doc = $doc])+ pub(crate) $field: $type, )*
            $($( $(#[doc = $section_doc])+ pub(crate) $section: $section_type, )+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $($( $section: Default::default(), )+)?
                }
            }
        }

        impl $crate::config::declare::Describe for $name {
            fn describe(
                path: Vec<&'static str>,
                doc: &'static [&'static str],
                sections: &mut Vec<$crate::config::declare::Section>,
            ) {
                let entries = vec![$( $crate::config::declare::Entry {
                    name: stringify!($field),
                    doc: &[$($doc),+],
                    wants: <$type as $crate::config::declare::Value>::WANTS,
                    quoted: <$type as $crate::config::declare::Value>::QUOTED,
                    default: $crate::config::declare::Value::toml(&Self::default().$field),
                    example: [$($example)?].first().copied(),
                } ),*];
                sections.push($crate::config::declare::Section { path: path.clone(), doc, entries });
                $($({
                    let mut path = path.clone();
                    path.push(stringify!($section));
                    <$section_type as $crate::config::declare::Describe>::describe(
                        path, &[$($section_doc),+], sections,
                    );
                })+)?
            }
        }
    };
}
pub(crate) use settings;
