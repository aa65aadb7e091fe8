//! What counts after readings with errors, objects that are gone, and images that could not be put in force.

use super::*;
use crate::policy::load::from_sources;
use crate::policy::origin::ObjectName;
use crate::policy::source;

const API: &str = "api";

fn read(path: &str, text: &str) -> Result<Loaded, Refusal> {
    Ok(from_sources(vec![SourceFile { path: path.into(), text: text.into() }])?)
}

fn policy(name: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: \"{label}\"}}}}}}\n"
    )
}

fn object(name: &str, text: &str) -> (Unit, Result<Loaded, Refusal>) {
    let unit = ObjectName { kind: "NetworkPolicy", namespace: "default".to_owned(), name: name.to_owned() };
    let result = read(&unit.to_string(), text);
    (Unit::Object(unit), result)
}

/// An object of this name that selects by this label, or one that is refused.
fn objects(all: &[(&str, Option<&str>)]) -> Said {
    let text = |name: &str, label: Option<&str>| label.map_or("kind: Nonsense\n".to_owned(), |l| policy(name, l));
    all.iter().map(|(name, label)| object(name, &text(name, *label))).collect()
}

/// Each policy that counts with the label that it selects by.
fn counting(store: &Store) -> Vec<String> {
    let label = |policy: &crate::policy::model::Policy| match policy.subject.requirements.as_slice() {
        [crate::policy::model::Requirement::In(_, values)] => Vec::from_iter(values.clone()).join(","),
        other => panic!("{other:?}"),
    };
    let set = &store.current().expect("a reading").set;
    set.policies.iter().map(|policy| format!("{} {}", policy.name, label(policy))).collect()
}

#[test]
fn a_refused_object_changes_nothing_but_itself() {
    let mut store = Store::new([API]);
    assert!(store.take(API, objects(&[("a", Some("1")), ("b", Some("1"))])).changed);
    store.settle();
    // In one reading one object is refused, one changes, one appears, and one appears refused.
    let said = objects(&[("a", None), ("b", Some("2")), ("c", Some("1")), ("d", None)]);
    let news = store.take(API, said);
    assert!(news.changed);
    assert_eq!(counting(&store), ["a 1", "b 2", "c 1"], "the last good a stays");
    assert_eq!(news.errors.len(), 2, "{:?}", news.errors);
    let error = store.error().unwrap();
    assert!(error.contains("networkpolicy/default/a") && error.contains("networkpolicy/default/d"), "{error}");
    let news = store.take(API, objects(&[("a", None), ("b", Some("2")), ("c", Some("1")), ("d", None)]));
    assert!(!news.changed && news.errors.is_empty(), "nothing new was said");
    // Mended, and gone.
    assert!(store.take(API, objects(&[("a", Some("3")), ("c", Some("1"))])).changed);
    assert_eq!((counting(&store), store.error()), (vec!["a 3".to_owned(), "c 1".to_owned()], None));
}

#[test]
fn a_refused_file_leaves_the_whole_directory_as_it_was() {
    let mut store = Store::new(["directory"]);
    let whole = |text: &str| Said::from([(Unit::Whole, read("a.yaml", text))]);
    assert!(!store.take("directory", whole("kind: Nonsense\n")).changed);
    assert!(store.current().is_none(), "there is no good version yet");
    store.take("directory", whole(&format!("{}---\n{}", policy("a", "1"), policy("b", "1"))));
    let news = store.take("directory", whole(&format!("{}---\nkind: Nonsense\n", policy("a", "2"))));
    assert!(!news.changed);
    assert_eq!(counting(&store), ["a 1", "b 1"]);
    assert!(store.error().unwrap().contains("a.yaml:6"), "{:?}", store.error());
}

#[test]
fn nothing_counts_before_every_source_has_spoken_and_then_they_add_up() {
    let mut store = Store::new([API, "directory"]);
    assert!(store.take("directory", Said::from([(Unit::Whole, read("a.yaml", &policy("a", "1")))])).changed);
    assert!(store.current().is_none());
    assert!(store.take(API, Said::new()).changed, "an API without objects has spoken");
    assert_eq!(counting(&store), ["a 1"]);
    store.take(API, objects(&[("b", Some("1"))]));
    assert_eq!(counting(&store), ["b 1", "a 1"]);
    let sources = &store.current().unwrap().sources;
    assert_eq!(&*sources[API][0][0].path, "networkpolicy/default/b");
    assert_eq!(&*sources["directory"][0][0].path, "a.yaml");
}

#[test]
fn what_cannot_be_brought_in_force_takes_back_only_what_has_changed() {
    let mut store = Store::new([API]);
    store.take(API, objects(&[("a", Some("1")), ("b", Some("1"))]));
    assert!(!store.roll_back("too large"), "there is nothing to go back to");
    store.settle();
    let newest = || objects(&[("a", Some("1")), ("b", Some("2")), ("c", Some("1"))]);
    store.take(API, newest());
    assert!(store.roll_back("too large"));
    assert_eq!(counting(&store), ["a 1", "b 1"]);
    assert_eq!(store.error().as_deref(), Some("too large"), "b and c are refused together");
    assert!(!store.take(API, newest()).changed, "the same versions are not tried again");
    assert!(store.take(API, objects(&[("a", Some("1")), ("b", Some("3"))])).changed);
    assert_eq!((counting(&store), store.error()), (vec!["a 1".to_owned(), "b 3".to_owned()], None));
}

/// A refusal with what isolates these workloads in its place, if its selector can be read.
fn refused(label: Option<&str>) -> Result<Loaded, Refusal> {
    let Err(refusal) = read("a", "kind: Nonsense\n") else { panic!("it was read") };
    let stand_in = label.map(|label| {
        let stand_in = read(&format!("stand-in for {label}"), &policy("a", label)).unwrap();
        Loaded { stands_in: true, ..stand_in }
    });
    Err(Refusal { stand_in, ..refusal })
}

fn said(name: &str, result: Result<Loaded, Refusal>) -> Said {
    Said::from([(object(name, "").0, result)])
}

fn instead(news: &News) -> Vec<Instead> {
    news.errors.iter().map(|refused| refused.object.unwrap()).collect()
}

#[test]
fn a_refused_first_version_isolates_and_a_refused_later_one_changes_nothing() {
    let mut store = Store::new([API]);
    let news = store.take(API, said("a", refused(Some("1"))));
    assert!(news.changed);
    assert_eq!((counting(&store), instead(&news)), (vec!["a 1".to_owned()], vec![Instead::Isolation]));
    assert!(store.error().unwrap().contains("so what it selects is isolated"), "{:?}", store.error());
    store.settle();
    let news = store.take(API, said("a", refused(Some("1"))));
    assert!(!news.changed && news.errors.is_empty(), "the same again is no news");
    // A good version takes its place, and then it is the last good one.
    assert!(store.take(API, said("a", read("a", &policy("a", "2")))).changed);
    assert_eq!((counting(&store), store.error()), (vec!["a 2".to_owned()], None));
    let news = store.take(API, said("a", refused(Some("3"))));
    assert!(!news.changed);
    assert_eq!((counting(&store), instead(&news)), (vec!["a 2".to_owned()], vec![Instead::LastGood]));
    assert!(store.error().unwrap().contains("the last good version of this object stays in force"));
    // It is gone, and another of its name has never been good.
    assert!(store.take(API, Said::new()).changed);
    assert_eq!((counting(&store), store.error()), (vec![], None));
    store.take(API, said("a", refused(Some("3"))));
    assert_eq!(counting(&store), ["a 3"]);
}

#[test]
fn each_refused_object_is_listed_with_its_newest_version_and_what_counts_instead() {
    let of = |generation: i64| {
        let Err(refusal) = refused(Some("1")) else { panic!("it is refused") };
        let version = source::Version { generation: Some(generation), ..source::Version::default() };
        Err(Refusal { object: Some(Versioned { version, ..Versioned::default() }.into()), ..refusal })
    };
    let listed = |store: &Store| -> Vec<(Option<i64>, Instead)> {
        store.refused_objects().map(|(object, instead, _)| (object.version.generation, instead)).collect()
    };
    let mut store = Store::new([API]);
    store.take(API, said("a", of(1)));
    assert_eq!(listed(&store), [(Some(1), Instead::Isolation)]);
    let news = store.take(API, said("a", of(2)));
    assert!(news.errors.is_empty(), "people have heard of this mistake");
    assert_eq!(listed(&store), [(Some(2), Instead::Isolation)]);
    store.take(API, said("a", read("a", &policy("a", "1"))));
    assert_eq!(listed(&store), []);
    store.take(API, said("a", of(4)));
    assert_eq!(listed(&store), [(Some(4), Instead::LastGood)]);
    store.take(API, Said::new());
    assert_eq!(listed(&store), []);
}

#[test]
fn a_refused_object_without_a_readable_selector_changes_nothing() {
    let mut store = Store::new([API]);
    store.take(API, said("b", read("b", &policy("b", "1"))));
    let both = |result| said("a", result).into_iter().chain(said("b", read("b", &policy("b", "1")))).collect::<Said>();
    let news = store.take(API, both(refused(None)));
    assert!(!news.changed);
    assert_eq!((counting(&store), instead(&news)), (vec!["b 1".to_owned()], vec![Instead::Nothing]));
    // Once something stands in for it, a version that cannot be read at all does not take that away.
    assert!(store.take(API, both(refused(Some("1")))).changed);
    assert!(!store.take(API, both(refused(None))).changed);
    assert_eq!(counting(&store), ["a 1", "b 1"]);
}

#[test]
fn no_refused_version_opens_what_an_earlier_refused_one_has_isolated() {
    let mut store = Store::new([API]);
    for label in ["1", "2", "1", "2"] {
        store.take(API, said("a", refused(Some(label))));
    }
    assert_eq!(counting(&store), ["a 1", "a 2"]);
    for label in 3..100 {
        store.take(API, said("a", refused(Some(&label.to_string()))));
    }
    let counting = counting(&store);
    assert_eq!((counting.len(), counting.last().map(String::as_str)), (STAND_INS, Some("a 99")));
    assert_eq!(counting[..3], ["a 1", "a 2", "a 3"]);
    assert_eq!(store.current().unwrap().sources[API][0].len(), STAND_INS, "each has its text");
}

#[test]
fn a_source_with_nothing_to_say_keeps_what_was_kept_of_it_and_nobody_waits_for_it() {
    let mut store = Store::new([API, "other"]);
    store.take("other", said("b", read("b", &policy("b", "1"))));
    assert!(store.current().is_none());
    assert!(store.as_before(API), "now all have spoken");
    assert!(!store.as_before(API), "the same again is no news");
    assert_eq!(counting(&store), ["b 1"]);
    assert_eq!(
        store.current().unwrap().kept()[API],
        Vec::<Arc<[SourceFile]>>::new(),
        "that there is nothing is kept too"
    );
    let mut store = Store::new([API]);
    store.take(API, said("a", read("a", &policy("a", "1"))));
    assert!(!store.as_before(API));
    assert_eq!(counting(&store), ["a 1"]);
}

#[test]
fn of_many_errors_some_are_shown_and_all_are_counted() {
    let mut store = Store::new([API]);
    let all = (0..1_000).flat_map(|number| {
        let result = read(&format!("networkpolicy/default/p{number}"), "kind: Nonsense\n");
        said(&format!("p{number}"), result)
    });
    let news = store.take(API, all.collect());
    assert_eq!(news.errors.len(), 1_000);
    let error = store.error().unwrap();
    assert!(error.ends_with("and 980 more") && error.len() < 20_000, "{error}");
    assert!(store.has_error(API) && !store.has_error("other"));
}
