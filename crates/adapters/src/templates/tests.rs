#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::fs;
use std::path::Path;

use threepid_domain::model::{Code, EmailAddress, Msisdn};

use super::*;

fn settings(folder: Option<&Path>) -> TemplateSettings {
    TemplateSettings { app_name: "matrix.example.org".to_owned(), folder: folder.map(Path::to_owned) }
}

fn built_in() -> MinijinjaTemplates {
    MinijinjaTemplates::new(&settings(None)).unwrap()
}

fn mail(link: &str) -> ValidationMail {
    ValidationMail {
        to: EmailAddress::parse("alice@example.org").unwrap(),
        link: link.to_owned(),
        code: None,
        valid_for: Duration::from_secs(3600),
    }
}

fn sms() -> ValidationSms {
    ValidationSms {
        to: Msisdn::parse("447700900813").unwrap(),
        code: Code::given("012345").unwrap(),
        link: "https://id.example.org/c".to_owned(),
        valid_for: Duration::from_secs(3600),
    }
}

fn confirm() -> Page {
    Page::Confirm {
        action: "https://id.example.org/_threepid/confirm".to_owned(),
        sid: "s1".to_owned(),
        token: "t1".to_owned(),
    }
}

fn enter_code(is_again: bool) -> Page {
    Page::EnterCode {
        action: "https://id.example.org/_threepid/confirm".to_owned(),
        sid: "s1".to_owned(),
        code: "12 34".to_owned(),
        is_again,
    }
}

fn confirmed(medium: Medium) -> Page {
    Page::Confirmed { medium }
}

fn pages() -> [Page; 7] {
    let [mail, sms] = [Medium::Email, Medium::Msisdn].map(confirmed);
    [confirm(), enter_code(false), enter_code(true), mail, sms, Page::Failed, Page::TryAgain]
}

/// A folder with one template of the operator's.
fn folder_with(name: &str, source: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, source).unwrap();
    folder
}

#[test]
fn the_mail_says_what_why_how_long_and_what_if_not() {
    let link = "https://id.example.org/_threepid/confirm?sid=s1&token=t1";
    let text = built_in().validation_mail(mail(link)).unwrap();
    assert_eq!(text.subject, "Confirm your email address for matrix.example.org");
    assert!(text.text.lines().any(|line| line == link), "the link has a line of its own");
    for said in ["alice@example.org", "matrix.example.org", "1 hour", "ignore this mail: nothing was changed"]
    {
        assert!(text.text.contains(said) && text.html.contains(said), "{said}");
    }
    assert!(
        !text.html.contains("http-equiv") && !text.html.contains("<img") && !text.html.contains("<script")
    );
}

#[test]
fn the_link_in_html_is_escaped_and_the_one_in_text_is_not() {
    let text = built_in().validation_mail(mail("https://a.example/?a=\"><b>&c")).unwrap();
    assert!(text.text.contains("https://a.example/?a=\"><b>&c\n"));
    assert!(!text.html.contains("\"><b>"));
    assert!(text.html.contains("&quot;&gt;&lt;b&gt;&amp;c"));
}

#[test]
fn every_value_in_a_page_is_escaped() {
    let evil = "\"><script>alert(1)</script>".to_owned();
    let app_name = "<b>&\"'".to_owned();
    let templates = MinijinjaTemplates::new(&TemplateSettings { app_name, folder: None }).unwrap();
    let page = Page::Confirm { action: evil.clone(), sid: evil.clone(), token: evil };
    let html = templates.page(page).unwrap();
    assert!(!html.contains("<script") && !html.contains("<b>"));
    assert_eq!(html.matches("&lt;script&gt;").count(), 3);
}

#[test]
fn the_confirm_page_has_one_form_that_posts_sid_and_token_by_a_real_button() {
    let html = built_in().page(confirm()).unwrap();
    assert_eq!(html.matches("<form method=\"post\"").count(), 1);
    assert!(html.contains("<input type=\"hidden\" name=\"sid\" value=\"s1\">"));
    assert!(html.contains("<input type=\"hidden\" name=\"token\" value=\"t1\">"));
    assert!(html.contains("<button type=\"submit\">"));
}

#[test]
fn the_code_page_has_one_form_that_posts_sid_and_code_and_says_when_it_was_wrong() {
    for is_again in [false, true] {
        let html = built_in().page(enter_code(is_again)).unwrap();
        assert_eq!(html.matches("<form method=\"post\"").count(), 1);
        assert!(html.contains("<input type=\"hidden\" name=\"sid\" value=\"s1\">"));
        assert!(html.contains("name=\"code\" type=\"text\" value=\"12 34\""), "{html}");
        assert!(html.contains("autocomplete=\"one-time-code\"") && html.contains("<label for=\"code\">"));
        assert!(html.contains("<button type=\"submit\">") && !html.contains("name=\"token\""));
        assert_eq!(html.contains("role=\"alert\""), is_again);
    }
}

#[test]
fn a_mail_says_its_code_only_where_it_has_one() {
    let link = "https://id.example.org/_threepid/confirm?sid=s1&token=t1";
    let without = built_in().validation_mail(mail(link)).unwrap();
    let code = Code::given("012345");
    let with = built_in().validation_mail(ValidationMail { code, ..mail(link) }).unwrap();
    for (without, with) in [(&without.text, &with.text), (&without.html, &with.html)] {
        assert!(!without.contains("code") && !without.contains("{%"), "{without}");
        assert!(with.contains("012345") && with.contains("code") && with.contains("t1"), "{with}");
    }
    assert_eq!(without.subject, with.subject, "a subject is shown on locked screens");
    // The line of the link and the one after it stand as if there were no code.
    assert!(without.text.contains("token=t1\n\nThe link works for 1 hour."), "{}", without.text);
}

#[test]
fn an_sms_says_its_code_whose_it_is_and_how_long_it_is_good_in_one_message() {
    let text = built_in().validation_sms(sms()).unwrap();
    for said in ["012345", "matrix.example.org", "1 hour", "ignore this message"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(text.len() <= 160 && text.is_ascii() && !text.contains('\n'), "{} {text}", text.len());
}

#[test]
fn an_operators_sms_has_to_say_the_code_or_the_link() {
    let with = |source| {
        let folder = folder_with("validation/sms.txt.j2", source);
        MinijinjaTemplates::new(&settings(Some(folder.path())))
    };
    let text = with("{{ app_name }}: {{ link }}").unwrap().validation_sms(sms()).unwrap();
    assert_eq!(text, "matrix.example.org: https://id.example.org/c");
    let error = with("Hello {{ to }}").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("sms.txt.j2") && error.contains("the code or the link"), "{error}");
}

#[test]
fn what_informs_whoever_has_an_address_says_so_and_has_no_link_and_no_code() {
    let to = EmailAddress::parse("alice@example.org").unwrap();
    let mail = built_in().in_use_mail(InUseMail { to }).unwrap();
    assert_eq!(mail.subject, "Your email address at matrix.example.org is in use already");
    for body in [&mail.text, &mail.html] {
        for said in ["alice@example.org", "matrix.example.org", "nothing was changed", "was not told"] {
            assert!(body.replace('\n', " ").contains(said), "{said}: {body}");
        }
        assert!(!body.contains("://") && !body.contains("href"), "{body}");
    }
    let to = Msisdn::parse("447700900813").unwrap();
    let text = built_in().in_use_sms(InUseSms { to }).unwrap();
    assert!(text.contains("matrix.example.org") && text.contains("nothing was changed"), "{text}");
    assert!(text.len() <= 160 && text.is_ascii() && !text.contains('\n') && !text.contains("://"), "{text}");
}

#[test]
fn what_informs_can_be_said_in_other_words() {
    let to = || EmailAddress::parse("alice@example.org").unwrap();
    for (name, shows) in [
        ("in_use/subject.txt.j2", (|mail: MailText| mail.subject) as fn(MailText) -> String),
        ("in_use/body.txt.j2", |mail| mail.text),
        ("in_use/body.html.j2", |mail| mail.html),
    ] {
        let folder = folder_with(name, "{{ app_name }}: {{ to }}");
        let templates = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap();
        let said = shows(templates.in_use_mail(InUseMail { to: to() }).unwrap());
        assert_eq!(said, "matrix.example.org: alice@example.org", "{name}");
    }
    let folder = folder_with("in_use/sms.txt.j2", "{{ app_name }}: {{ to }}\n");
    let templates = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap();
    let to = Msisdn::parse("447700900813").unwrap();
    assert_eq!(templates.in_use_sms(InUseSms { to }).unwrap(), "matrix.example.org: 447700900813");
    for (source, complaint) in
        [("{{ link }}", "undefined"), ("{{ code }}", "undefined"), (" ", "must not be empty")]
    {
        let folder = folder_with("in_use/sms.txt.j2", source);
        let error =
            MinijinjaTemplates::new(&settings(Some(folder.path()))).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("in_use/sms.txt.j2") && error.contains(complaint), "{error}");
    }
}

#[test]
fn every_page_is_whole_and_reads_well_without_script() {
    let templates = built_in();
    for page in pages() {
        let html = templates.page(page.clone()).unwrap();
        for part in [
            "<!doctype html>",
            "<html lang=\"en\">",
            "name=\"viewport\" content=\"width=device-width, initial-scale=1\"",
            "<meta name=\"color-scheme\" content=\"light dark\">",
            "<main>",
            "· matrix.example.org</title>",
            "</html>",
        ] {
            assert_eq!(html.matches(part).count(), 1, "{page:?}: {part}");
        }
        assert_eq!(html.matches("<h1>").count(), 1);
        assert!(!html.contains("<script") && !html.contains(" style=") && !html.contains("src="));
        assert_eq!(html.contains("<form"), matches!(page, Page::Confirm { .. } | Page::EnterCode { .. }));
    }
    for (medium, heading) in [
        (Medium::Email, "<h1>Your email address is confirmed</h1>"),
        (Medium::Msisdn, "<h1>Your phone number is confirmed</h1>"),
    ] {
        let html = templates.page(confirmed(medium)).unwrap();
        assert!(html.contains("role=\"status\"") && html.contains(heading), "{html}");
    }
    assert!(templates.page(Page::Failed).unwrap().contains("role=\"alert\""));
}

#[test]
fn the_policy_hash_is_that_of_the_style_in_every_page() {
    let templates = built_in();
    for page in pages() {
        let html = templates.page(page).unwrap();
        let (_, rest) = html.split_once("<style>").unwrap();
        let (style, _) = rest.split_once("</style>").unwrap();
        assert_eq!(style, PAGE_STYLE);
    }
    let hash = page_style_csp_hash();
    assert!(hash.starts_with("sha256-") && hash.ends_with('=') && hash.len() == 51, "{hash}");
}

#[test]
fn a_file_takes_the_place_of_one_template_and_leaves_the_others() {
    let folder =
        folder_with("validation/subject.txt.j2", "{{ app_name }}: prüfe {{ to }} in {{ valid_for }}\n");
    let templates = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap();
    let text = templates.validation_mail(mail("https://a.example/")).unwrap();
    assert_eq!(text.subject, "matrix.example.org: prüfe alice@example.org in 1 hour");
    assert_eq!(text.html, built_in().validation_mail(mail("https://a.example/")).unwrap().html);

    let folder = folder_with("page.html.j2", "<title>{{ app_name }}</title>{% block main %}{% endblock %}");
    let templates = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap();
    let html = templates.page(confirm()).unwrap();
    assert!(html.starts_with("<title>matrix.example.org</title>") && html.contains("<form"));
}

#[test]
fn a_broken_template_is_named_with_file_and_line_at_the_start() {
    for (name, source, line) in [
        ("validation/body.txt.j2", "Hello\n\n{% if %}", 3),
        ("validation/body.html.j2", "<p>\n{{ lnik }}</p>", 2),
        (
            "confirm.html.j2",
            "{% extends 'page.html.j2' %}\n{% block main %}\n\n{{ nothing }}{% endblock %}",
            4,
        ),
        ("failed.html.j2", "{% extends 'gone.html.j2' %}", 1),
        ("try_again.html.j2", "{{ app_name|shout }}", 1),
        ("validation/subject.txt.j2", "one\ntwo", 1),
        ("validation/subject.txt.j2", " \n", 1),
    ] {
        let folder = folder_with(name, source);
        let said = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap_err().to_string();
        let file = folder.path().join(name);
        assert!(said.starts_with(&format!("{}, line {line}: ", file.display())), "{said}");
    }
}

#[test]
fn a_file_that_takes_no_template_s_place_is_refused() {
    let folder = folder_with("validation/subjekt.txt.j2", "x");
    let said = MinijinjaTemplates::new(&settings(Some(folder.path()))).unwrap_err().to_string();
    assert!(said.contains("subjekt.txt.j2 takes no template's place"), "{said}");
    let folder = folder_with("README.md", "notes are no templates");
    assert!(MinijinjaTemplates::new(&settings(Some(folder.path()))).is_ok());
    let said = MinijinjaTemplates::new(&settings(Some(&folder.path().join("no")))).unwrap_err().to_string();
    assert!(said.contains("cannot be read"), "{said}");
}

#[test]
fn a_name_of_two_lines_is_refused() {
    for bad in ["", " ", "a\nBcc: b@example.org", "a\0"] {
        let settings = TemplateSettings { app_name: bad.to_owned(), folder: None };
        assert!(matches!(MinijinjaTemplates::new(&settings), Err(InvalidTemplates::AppName)), "{bad:?}");
    }
}

#[test]
fn spans_are_said_in_words_that_promise_no_more_than_holds() {
    for (seconds, words) in [
        (1, "1 second"),
        (45, "45 seconds"),
        (60, "1 minute"),
        (119, "1 minute"),
        (1800, "30 minutes"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (30_000, "8 hours"),
        (86_400, "24 hours"),
        (172_800, "2 days"),
    ] {
        assert_eq!(in_words(Duration::from_secs(seconds)), words);
    }
}

mod generated {
    use proptest::prelude::*;

    use super::*;

    /// Texts that mean something to HTML, to templates, or to headers.
    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[<>\"'&=/{}%#;: \r\n\ta-z-]{0,40}",
            Just("</a><script>alert(1)</script>".to_owned()),
            Just("\" onmouseover=\"alert(1)".to_owned()),
            Just("{{ 7 * 7 }}{% raw %}{# #}".to_owned()),
            Just("x\r\nBcc: victim@example.org".to_owned()),
        ]
    }

    /// How many tags, attributes and entities a page opens: text that is escaped adds none.
    fn tags(html: &str) -> (usize, usize, usize) {
        (html.matches('<').count(), html.matches('>').count(), html.matches('"').count())
    }

    proptest! {
        #[test]
        fn nothing_that_is_inserted_into_html_is_more_than_text(
            sid in hostile(), token in hostile(), action in hostile(), link in hostile(),
        ) {
            let built_in = built_in();
            let again = (action.clone(), sid.clone(), token.clone());
            let plain = Page::Confirm { action: "a".into(), sid: "b".into(), token: "c".into() };
            let page = built_in.page(Page::Confirm { action, sid, token }).unwrap();
            prop_assert_eq!(tags(&page), tags(&built_in.page(plain).unwrap()));
            prop_assert!(!page.contains(">49<"));
            let enter = |action, sid, code| Page::EnterCode { action, sid, code, is_again: true };
            let page = built_in.page(enter(again.0, again.1, again.2)).unwrap();
            let plain = enter("a".into(), "b".into(), "c".into());
            prop_assert_eq!(tags(&page), tags(&built_in.page(plain).unwrap()));
            let text = built_in.validation_mail(mail(&link)).unwrap();
            let expected = built_in.validation_mail(mail("a")).unwrap();
            prop_assert_eq!(tags(&text.html), tags(&expected.html));
            prop_assert_eq!(text.subject, expected.subject);
        }

        #[test]
        fn a_subject_is_one_line_whatever_the_service_is_called(app_name in hostile()) {
            let settings = TemplateSettings { app_name, folder: None };
            if let Ok(templates) = MinijinjaTemplates::new(&settings)
                && let Ok(text) = templates.validation_mail(mail("a"))
            {
                prop_assert!(!text.subject.contains(['\r', '\n']), "{:?}", text.subject);
            }
        }
    }
}
