//! Backends that threepid does not have: storage in one JSON file, mail as JSON files in a spool folder, and SMS as lines
//! of one file.
//!
//! They are the examples of the page "Writing an adapter". Each keeps its port's promises and is green in the contract
//! kit; for a large installation the one file would be a bottleneck.

pub mod json_store;
pub mod line_sms_sender;
pub mod spool_mailer;

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_shows_the_main_that_is_compiled() {
        let (page, main) = (include_str!("../../../writing-an-adapter.md"), include_str!("main.rs"));
        assert!(page.contains(&format!("```rust,ignore\n{main}```")), "the page shows another main.rs");
    }
}
