//! Named shapes: a role that passes on what a browser sent can use nothing else.

use postgres::{Client, NoTls};
use syncline_tests::follower::Follower;
use syncline_tests::histories::{self, state};
use syncline_tests::{Cluster, Install};

fn stage(install: &Install) -> (Cluster<'_>, Client) {
    let (cluster, mut client) = histories::tracked(install, &[]);
    client
        .batch_execute(
            r#"SELECT sync_define('odd', '{"tables": {"t": {"columns": ["n"], "where": "f = $1"}}}');
               CREATE ROLE web LOGIN; GRANT SELECT ON t TO web; ALTER ROLE web SET syncline.shapes = named"#,
        )
        .unwrap();
    (cluster, client)
}

const ODD: &str = r#"{"shape": "odd", "params": [1]}"#;
const WRITTEN_OUT: &str = r#"{"tables": {"t": {"columns": ["n"], "where": "f = $1"}}, "params": [1]}"#;

#[test]
fn named_shape_is_followed_and_resets_when_it_is_defined_anew() {
    let install = Install::new();
    let (_cluster, mut client) = stage(&install);
    let mut follower = Follower::new(ODD);
    assert_eq!(follower.pull(&mut client).len(), 4);
    client.batch_execute("UPDATE t SET f = 2 WHERE id = 1").unwrap();
    assert_eq!(follower.pull(&mut client), ["delete {\"id\": 1}"]);
    client.batch_execute(r#"SELECT sync_define('odd', '{"tables": {"t": {"where": "f = $1"}}}')"#).unwrap();
    assert_eq!(follower.pull(&mut client)[0], "reset shape");
    client.batch_execute("SELECT sync_undefine('odd')").unwrap();
    assert_eq!(state(&follower.try_pull(&mut client).unwrap_err()), "42704");
}

#[test]
fn role_of_named_shapes_can_use_no_other_by_no_function() {
    let install = Install::new();
    let (cluster, _client) = stage(&install);
    let mut web = cluster.config("postgres").user("web").connect(NoTls).unwrap();
    assert_eq!(Follower::new(ODD).pull(&mut web).len(), 4);
    for shape in [
        WRITTEN_OUT,
        r#"{"tables": {"t": {}}}"#,
        r#"{"shape": "odd", "params": [1], "tables": {"t": {}}}"#,
        r#"{"shape": {"tables": {"t": {}}}}"#,
        r#"{"shape": "nope"}"#,
        r#"{"shape": "odd", "params": ["1 OR true"]}"#,
        r#"{"shape": "odd"}"#,
        r#"{"shape": "odd", "params": [1, 2]}"#,
        r#"{"shape": "odd", "params": [1], "int8": "string"}"#,
    ] {
        for call in [
            "SELECT sync_changes(NULL, $1)",
            "SELECT sync_pull(NULL, $1)",
            "SELECT sync_preview($1)",
            "SELECT sync_digest($1)",
        ] {
            let sql = call.replace("$1", &format!("'{shape}'"));
            assert!(web.batch_execute(&sql).is_err(), "{sql}");
        }
        assert!(web.batch_execute(&format!("CALL sync_wait(NULL, '{shape}', '1 ms')")).is_err(), "{shape}");
    }
    assert_eq!(state(&Follower::new(WRITTEN_OUT).try_pull(&mut web).unwrap_err()), "42501");
    for sql in [
        "SET syncline.shapes = 'any'",
        "SELECT set_config('syncline.shapes', 'any', false)",
        "SELECT sync_define('mine', '{\"tables\": {\"t\": {}}}')",
        "SELECT sync_undefine('odd')",
        "SELECT * FROM syncline.shape",
        "SELECT * FROM sync_shapes",
        "ALTER ROLE web SET syncline.shapes = 'any'",
    ] {
        assert_eq!(state(&web.batch_execute(sql).unwrap_err()), "42501", "{sql}");
    }
}

/// What a session set before the library was there, and what a connection asks for, is weighed when it is loaded.
#[test]
fn role_of_named_shapes_stays_one_whatever_its_session_begins_with() {
    let install = Install::new();
    let (cluster, mut client) = stage(&install);
    client.batch_execute("CREATE ROLE other LOGIN; GRANT other TO web; GRANT SELECT ON t TO other").unwrap();
    let login = |options: &str| cluster.config("postgres").user("web").options(options).connect(NoTls).unwrap();
    for (options, first) in [
        ("", "SET syncline.shapes = 'any'"),
        ("", "SELECT set_config('syncline.shapes', 'any', false)"),
        ("", "BEGIN; SET LOCAL syncline.shapes = 'any'"),
        ("", "SET syncline.shapes TO DEFAULT"),
        ("", "RESET syncline.shapes"),
        ("", "RESET ALL"),
        ("", "DISCARD ALL"),
        ("", "ALTER ROLE web SET syncline.shapes = 'any'"),
        ("", "ALTER ROLE web RESET ALL"),
        ("", "ALTER ROLE web IN DATABASE postgres SET syncline.shapes = 'any'"),
        ("", "SET ROLE other"),
        ("-c syncline.shapes=any", "SELECT 1"),
        ("--syncline.shapes=any", "SELECT 1"),
        ("-c syncline.shapes=any", "RESET ALL"),
        ("-c syncline.shapes=any", "SET syncline.shapes = 'any'"),
        ("-c role=other", "SELECT 1"),
    ] {
        let mut web = login(options);
        // Refused or not: what counts is what comes of it.
        let _ = web.batch_execute(first);
        let asked = Follower::new(WRITTEN_OUT).try_pull(&mut web);
        assert_eq!(asked.map_err(|error| state(&error)), Err("42501".to_owned()), "{options} {first}");
    }
}

#[test]
fn definition_is_checked_when_it_is_made_and_survives_a_dump() {
    let install = Install::new();
    let (cluster, mut client) = stage(&install);
    for (shape, sqlstate) in [
        (r#"{"tables": {}}"#, "22023"),
        (r#"{"tables": {"t": {"where": "f = "}}}"#, "42601"),
        (r#"{"tables": {"t": {"where": "f = $2"}}}"#, "22023"),
        (r#"{"tables": {"t": {"where": "f = $1"}}, "params": [1]}"#, "22023"),
        (r#"{"shape": "odd"}"#, "22023"),
    ] {
        let error = client.execute("SELECT sync_define('x', $1::text::jsonb)", &[&shape]).unwrap_err();
        assert_eq!(state(&error), sqlstate, "{shape}: {error:?}");
    }
    let other = Cluster::start(&install);
    // Roles are not part of a dump.
    other.connect().batch_execute("CREATE ROLE web").unwrap();
    cluster.dump_into(&other, "postgres");
    assert_eq!(Follower::new(ODD).pull(&mut other.connect()).len(), 4);
}
