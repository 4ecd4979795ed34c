//! Taking images away: what others share stays, what nobody needs goes.

use super::*;

fn push_two(registry: &Registry) -> [String; 2] {
    let base = Layer::new().file("base", 0o644, b"x").end();
    ["one", "two"].map(|name| {
        let own = Layer::new().file(name, 0o644, b"x").end();
        let layout = Layout::new(&[(&base, Packing::Gzip), (&own, Packing::Gzip)], name);
        registry.push(layout.path(), "t", name, &[]);
        format!("{HOST}/{name}:latest")
    })
}

#[test]
fn shared_layers_stay_until_their_last_image_goes() {
    own_network();
    let registry = Registry::start(false);
    let [one, two] = push_two(&registry);
    let node = Node::new();
    let first = node.pull(&one).expect("pulled");
    let second = node.pull(&two).expect("pulled");
    assert_eq!(first.chain[0], second.chain[0]);
    let unused = |_: &str| None;

    let removed = node.store.remove(&one, &unused, false).expect("removed");
    let by_digest = |name: &str, image: &Image| format!("{HOST}/{name}@{}", image.digest);
    assert_eq!(removed.untagged, [one.clone(), by_digest("one", &first)]);
    assert_eq!(removed.deleted, [first.id.clone(), first.chain[1].to_string()]);
    assert!(node.store.resolve(&one).expect("readable").is_none());
    assert!(node.store.layer_dirs(&second).iter().all(|folder| folder.is_dir()));
    assert_eq!(node.names("layers/l").len(), 2);

    let removed = node.store.remove(&second.id[..20], &unused, false).expect("removed by id");
    assert_eq!((removed.untagged, removed.deleted.len()), (vec![two.clone(), by_digest("two", &second)], 3));
    node.assert_empty();
    assert!(node.store.remove(&two, &unused, false).expect_err("gone").is_not_found());
}

#[test]
fn a_name_goes_without_its_image_while_another_holds_it() {
    own_network();
    let registry = Registry::start(false);
    let [one, _] = push_two(&registry);
    let node = Node::new();
    let image = node.pull(&one).expect("pulled");
    let pinned = format!("{HOST}/one@{}", image.digest);
    node.pull(&pinned).expect("pulled");
    let unused = |_: &str| None;
    let error = node.store.remove(&image.id, &unused, false).expect_err("two names").to_string();
    assert!(error.contains(&one) && error.contains(&pinned), "{error}");
    let removed = node.store.remove(&one, &unused, false).expect("removed");
    assert_eq!((removed.untagged, removed.deleted), (vec![one], Vec::new()));
    assert_eq!(node.store.resolve(&image.id).expect("readable").expect("there").references, [pinned]);
    node.store.remove(&image.id, &unused, false).expect("removed");
    node.assert_empty();
}

#[test]
fn an_image_in_use_is_kept_for_its_container() {
    own_network();
    let registry = Registry::start(false);
    let [one, _] = push_two(&registry);
    let node = Node::new();
    let image = node.pull(&one).expect("pulled");
    let id = image.id.clone();
    let used = move |asked: &str| (asked == id).then(|| "web".to_owned());
    let error = node.store.remove(&one, &used, false).expect_err("in use");
    assert!(error.is_in_use() && error.to_string().contains("web"), "{error}");
    let removed = node.store.remove(&one, &used, true).expect("forced");
    assert_eq!((&removed.untagged[0], removed.deleted), (&one, Vec::new()));
    assert!(node.store.layer_dirs(&image).iter().all(|folder| folder.is_dir()));
    let removed = node.store.remove(&image.id, &|_| None, false).expect("no longer in use");
    assert_eq!(removed.deleted.len(), 3);
    node.assert_empty();
}
