//! `attest verify` against servers, honest and not, and offline.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attest_core::policy::Hex;
use attest_core::sha256;

use crate::sample::{Machine, Scene, hashed};
use crate::server::{Key, Server, evidence, framed, relayed, write_references};
use crate::{Run, attest, text};

const PROTOCOL: &[&str] = &["bulla-attest/1"];

/// A folder with policy and identity, and the server's key.
struct Site {
    folder: tempfile::TempDir,
    key: Key,
}

impl Site {
    fn new(scene: &Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_references(folder.path(), scene);
        let key = Key::new(folder.path(), "edge");
        Self { folder, key }
    }

    fn file(&self, name: &str) -> String {
        text(self.folder.path().join(name))
    }

    fn verify(&self, server: &str, more: &[&str]) -> Run {
        let (policy, identity) = (self.file("policy.json"), self.file("identity.json"));
        let arguments = ["verify", server, "--policy", &policy, "--identity", &identity];
        attest(&[&arguments[..], more].concat())
    }

    fn offline(&self, connection: &serde_json::Value, more: &[&str]) -> Run {
        let (policy, identity) = (self.file("policy.json"), self.file("identity.json"));
        let evidence = self.file("evidence");
        let value = |name: &str| connection[name].as_str().unwrap();
        let arguments = [
            "verify",
            "--evidence",
            &evidence,
            "--policy",
            &policy,
            "--identity",
            &identity,
            "--nonce",
            value("nonce"),
            "--exporter",
            value("exporter"),
            "--spki",
            value("spki_sha256"),
        ];
        attest(&[&arguments[..], more].concat())
    }
}

#[test]
fn a_good_machine_is_verified_live_and_again_offline() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let server = Server::of(&site.key, scene);
    site.verify(&server.address(), &[]).ends(0).says("verified  edge-proxy").says("vtpm-host");
    let saved = site.file("evidence");
    let run = site.verify(&server.address(), &["--json", "--save-evidence", &saved]).ends(0);
    let verdict = run.json();
    assert_eq!(verdict["schema"], "bulla-verdict/1");
    assert_eq!((&verdict["verdict"], &verdict["class"]), (&"pass".into(), &0.into()));
    let connection = &verdict["connection"];
    assert_eq!(connection["spki_sha256"], Hex(site.key.spki_sha256().to_vec()).to_string());

    site.offline(connection, &[]).ends(0).says("verified");
    for name in ["nonce", "exporter", "spki_sha256"] {
        let mut other = connection.clone();
        other[name] = "00".repeat(32).into();
        site.offline(&other, &[]).ends(4).says("refused");
        other[name] = "00".repeat(31).into();
        site.offline(&other, &[]).ends(1).says("is not 32 bytes");
    }
}

#[test]
fn no_two_runs_use_the_same_nonce() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let server = Server::of(&site.key, scene);
    let nonce = || {
        let run = site.verify(&server.address(), &["--json"]).ends(0);
        run.json()["connection"]["nonce"].as_str().unwrap().to_owned()
    };
    let nonces = [nonce(), nonce(), nonce()];
    assert!(nonces[0] != nonces[1] && nonces[1] != nonces[2] && nonces[0] != nonces[2]);
    assert!(nonces.iter().all(|it| it.len() == 64 && it.chars().any(|c| c != '0')));
}

#[test]
fn an_answer_that_was_relayed_is_not_of_this_connection() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let genuine = Server::of(&site.key, scene);
    let own = Key::new(site.folder.path(), "own");
    // With a key of its own, and with the machine's, should that have been stolen.
    for key in [&own, &site.key] {
        let (machine, address) = (site.key.clone(), genuine.address());
        let middle = Server::start(key, PROTOCOL, move |victim| {
            let evidence = relayed(&machine, &address, &victim.nonce);
            framed(&evidence)
        });
        site.verify(&middle.address(), &[]).ends(4).says("binding.fresh");
        assert_eq!(middle.requests(), 1);
    }
    site.verify(&genuine.address(), &[]).ends(0);
    assert_eq!(genuine.requests(), 3);
}

#[test]
fn an_answer_that_was_replayed_is_not_fresh() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let server = Server::start(&site.key, PROTOCOL, move |connection| {
        let mut kept = kept.lock().unwrap();
        framed(kept.get_or_insert_with(|| evidence(&scene, &connection)))
    });
    site.verify(&server.address(), &[]).ends(0);
    site.verify(&server.address(), &[]).ends(4).says("binding.fresh");
}

#[test]
fn another_key_is_not_trusted() {
    let site = Site::new(&Scene::new());
    let server = Server::of(&site.key, Scene::new());
    let run = site.verify(&server.address(), &["--json"]).ends(3);
    assert_eq!(run.json()["class"], 3);
    site.verify(&server.address(), &[]).ends(3).says("ak.trusted");
}

/// A machine that differs in one thing is refused for policy, and the thing is named.
#[track_caller]
fn check_component(change: impl FnOnce(&mut Machine), component: &str) {
    let mut machine = Machine::new();
    change(&mut machine);
    let scene = Scene::of(machine);
    let site = Site::new(&scene);
    let server = Server::of(&site.key, scene);
    let saved = site.file("evidence");
    let run = site.verify(&server.address(), &["--json", "--save-evidence", &saved]).ends(5);
    assert_eq!(run.json()["differs"], serde_json::json!([component]));
    let differs = format!("differs   {component}");
    site.verify(&server.address(), &[]).ends(5).says(&differs);
    // What explains it says the same, and no verdict.
    let run = attest(&["explain", &saved, "--policy", &site.file("policy.json")]).ends(0);
    let run = run.says(&format!("differs from the policy: {component}"));
    assert!(!run.out.contains("verdict") && !run.out.contains("class"));
    let run = attest(&["explain", &saved, "--policy", &site.file("policy.json"), "--json"]).ends(0);
    assert_eq!(run.json()["differs"], serde_json::json!([component]));
}

#[test]
fn what_differs_is_named() {
    check_component(|it| it.service[0] ^= 1, "service");
    check_component(|it| it.configuration[0] ^= 1, "configuration");
    check_component(|it| it.program[0] ^= 1, "boot");
    check_component(|it| it.firmware.push(hashed(7, 0x8000_00e0, b"another key")), "firmware");
    check_component(|it| it.record[16] ^= 1, "seal");
}

#[test]
fn what_is_no_evidence_is_invalid() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let scene = Arc::new(Mutex::new(scene));
    let check = |change: fn(Vec<u8>) -> Vec<u8>, says: &str| {
        let scene = Arc::clone(&scene);
        let server = Server::start(&site.key, PROTOCOL, move |connection| {
            change(framed(&evidence(&scene.lock().unwrap(), &connection)))
        });
        site.verify(&server.address(), &[]).ends(2).says(says).says("refused   class 2");
        let verdict = site.verify(&server.address(), &["--json"]).ends(2).json();
        assert_eq!((&verdict["verdict"], &verdict["class"]), (&"fail".into(), &2.into()));
    };
    check(|_| vec![0, 0, 0, 0], "gives no evidence");
    check(|_| vec![0, 2, 0, 1], "131073 bytes");
    check(|_| vec![255; 4], "4294967295 bytes");
    check(|_| framed(b"\x1b[31mverified"), "collection of records");
    check(|good| framed(&good[5..]), "collection of records");
    check(|good| framed(&[&good[4..], &[0]].concat()), "collection of records");
    // The quote's signature.
    check(
        |mut good| {
            *good.last_mut().unwrap() ^= 4;
            good
        },
        "",
    );
}

#[test]
fn what_is_no_such_server_cannot_be_asked() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let server = Server::start(&site.key, PROTOCOL, |_| vec![0, 0]);
    site.verify(&server.address(), &["--timeout", "2"]).ends(1).says("timed out");
    for protocols in [&[][..], &["http/1.1"]] {
        let server = Server::start(&site.key, protocols, |_| Vec::new());
        site.verify(&server.address(), &[]).ends(1).says("does not speak bulla-attest/1");
        assert_eq!(server.requests(), 0);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    site.verify(&address, &["--timeout", "1"]).ends(1).says("timed out");
    drop(listener);
    site.verify(&address, &[]).ends(1).says("refused");
    for address in ["", "edge", "edge:", "edge:70000", "[::1:443", "\u{1b}[31m:443"] {
        site.verify(address, &[]).ends(1);
    }
}

#[test]
fn tls_1_2_is_refused() {
    let site = Site::new(&Scene::new());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut server = Command::new("timeout")
        .args(["60", "openssl", "s_server", "-tls1_2", "-alpn", "bulla-attest/1", "-quiet"])
        .args(["-accept", &format!("127.0.0.1:{port}"), "-cert", "edge.pem", "-key", "edge.key"])
        .current_dir(site.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{port}");
    let mut run = site.verify(&address, &[]);
    // Until it listens.
    for _ in 0..100 {
        if !run.err.contains("Connection refused") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        run = site.verify(&address, &[]);
    }
    let _sent = Command::new("kill").arg(server.id().to_string()).output();
    server.wait().unwrap();
    run.ends(1).says("TLS: ");
}

#[test]
fn a_ca_may_be_asked_for_too() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let server = Server::of(&site.key, scene);
    Key::new(site.folder.path(), "other");
    let (own, other) = (site.file("edge.pem"), site.file("other.pem"));
    let named =
        |ca: &str, name: &str| site.verify(&server.address(), &["--ca", ca, "--server-name", name]);
    named(&own, "edge.example").ends(0);
    named(&other, "edge.example").ends(1).says("TLS: invalid peer certificate");
    named(&own, "elsewhere.example").ends(1).says("TLS: invalid peer certificate");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_key_has_exactly_one_source_of_trust() {
    let scene = Scene::new();
    let site = Site::new(&scene);
    let server = Server::of(&site.key, scene);
    let (policy, identity) = (site.file("policy.json"), site.file("identity.json"));
    let address = server.address();
    let without = ["verify", &address, "--policy", &policy];
    attest(&without).ends(1);
    let folder = text(site.folder.path());
    let both = ["--identity", &identity, "--ek-roots", &folder, "--state", &identity];
    attest(&[&without[..], &both].concat()).ends(1);
    attest(&[&without[..], &["--ek-roots", &folder]].concat()).ends(1);
    attest(&["verify", &address, "--identity", &identity]).ends(1);
    attest(&["verify", "--policy", &policy, "--identity", &identity]).ends(1);
    // Bad files are told of before anybody is asked.
    for (file, good) in [("policy.json", &policy), ("identity.json", &identity)] {
        let kept = fs::read(good).unwrap();
        for bad in [&b""[..], b"{}", b"\x1b[31m", &[&kept[..], b"x"].concat()] {
            fs::write(good, bad).unwrap();
            site.verify(&address, &[]).ends(1).says(file);
        }
        fs::write(good, kept).unwrap();
    }
    assert_eq!(server.requests(), 0);
    site.verify(&address, &[]).ends(0);
    assert_eq!(server.requests(), 1);
}

/// A machine whose evidence shows on its own whose key it is.
struct Enrolled {
    site: Site,
    certificate: Vec<u8>,
}

impl Enrolled {
    fn new() -> Self {
        let site = Site::new(&Scene::new());
        let script = "
            for who in root other; do
                openssl req -x509 -newkey rsa:2048 -nodes -keyout $who.key -out $who.crt -days 99 -subj /CN=$who 2>/dev/null
            done
            mkdir roots others; mv root.crt roots/; mv other.crt others/
            openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out ek.key 2>/dev/null
            printf 'extendedKeyUsage=2.23.133.8.1\\nkeyUsage=critical,keyAgreement\\n' > ext
            openssl req -new -key ek.key -subj /CN=tpm -out ek.csr
            openssl x509 -req -in ek.csr -CA roots/root.crt -CAkey root.key -CAcreateserial -days 99 \\
                -extfile ext -outform der -out ek.der 2>/dev/null";
        crate::shell(site.folder.path(), script);
        let certificate = fs::read(site.file("ek.der")).unwrap();
        Self { site, certificate }
    }

    /// A server with this evidence, and a state whose answer is known here.
    fn serve(&self, ek: Option<&[u8]>, answer: Option<&[u8]>) -> Server {
        let mut scene = Scene::new();
        scene.policy.require.platform_trust_any.push(attest_core::policy::PlatformTrust::Unknown);
        write_references(self.site.folder.path(), &scene);
        let state = serde_json::json!({
            "schema": "bulla-enrolment/1",
            "ak_name": scene.identity.ak_name,
            "ek_certificate": Hex(self.certificate.clone()),
            "answer_sha256": Hex(sha256(b"the answer, which has 32 bytes..").to_vec()),
        });
        fs::write(self.site.file("state.json"), state.to_string()).unwrap();
        scene.ek = ek.map(<[u8]>::to_vec);
        scene.signature = answer.map(<[u8]>::to_vec);
        Server::of(&self.site.key, scene)
    }

    /// Judges such evidence by what it shows itself.
    fn verify(&self, ek: Option<&[u8]>, answer: Option<&[u8]>, roots: &str) -> Run {
        let server = self.serve(ek, answer);
        let file = |name: &str| self.site.file(name);
        attest(&[
            "verify",
            &server.address(),
            "--policy",
            &file("policy.json"),
            "--ek-roots",
            &file(roots),
            "--state",
            &file("state.json"),
        ])
    }
}

#[test]
fn a_machine_is_enrolled_by_its_evidence() {
    let machine = Enrolled::new();
    let file = |name: &str| machine.site.file(name);
    let ask = |server: &Server| {
        attest(&["enroll", "ask", &server.address(), "-o", &file("evidence")]).ends(0)
    };
    let (evidence, state, identity) = (file("evidence"), file("state.json"), file("new.json"));
    let finish = ["enroll", "finish", "--state", &state, "--evidence", &evidence, "-o", &identity];
    let ek = Some(&machine.certificate[..]);
    let answer = Some(&b"the answer, which has 32 bytes.."[..]);

    let server = machine.serve(ek, answer);
    ask(&server).says("not verified");
    attest(&finish).ends(0);
    let new = ["--policy", &file("policy.json"), "--identity", &identity];
    attest(&[&["verify", &server.address()], &new[..]].concat()).ends(0).says("verified");
    // Its own answer is none to a new challenge, nor is it any other machine's.
    let begin =
        ["enroll", "begin", "--evidence", &evidence, "-o", &file("challenge"), "--state", &state];
    attest(&[&begin[..], &["--roots", &file("others")]].concat()).ends(3).says("no root vouches");
    attest(&[&begin[..], &["--roots", &file("roots")]].concat()).ends(0);
    attest(&finish).ends(3).says("the answer is wrong");
    ask(&machine.serve(ek, None));
    attest(&finish).ends(3).says("no answer");
    let other = Server::of(&machine.site.key, Scene::new());
    ask(&other);
    attest(&finish).ends(3).says("not the one that the challenge was made for");
    attest(&[&begin[..], &["--roots", &file("roots")]].concat()).ends(2).says("no certificate");
}

#[test]
fn evidence_can_show_whose_key_it_is() {
    let machine = Enrolled::new();
    let ek = Some(&machine.certificate[..]);
    let answer = Some(&b"the answer, which has 32 bytes.."[..]);
    machine.verify(ek, answer, "roots").ends(0).says("verified");
    machine.verify(None, answer, "roots").ends(0);
    machine.verify(ek, answer, "others").ends(3).says("ek.chain");
    machine
        .verify(ek, Some(b"another answer of the same length"), "roots")
        .ends(3)
        .says("ek.answer");
    machine.verify(ek, Some(b"t"), "roots").ends(3).says("ek.answer");
    machine.verify(ek, None, "roots").ends(3).says("no answer");
    machine.verify(Some(b"another"), answer, "roots").ends(3).says("another TPM's");
}
