//! Many processes at once.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;

use network::AttachSpec;

use crate::host::{Host, Namespace, back_ends, publish};

const CONTAINERS: usize = 20;

#[test]
fn parallel_attaches_get_addresses_of_their_own_and_all_work() {
    for back_end in back_ends() {
        let host = Host::new(&back_end);
        let before = host.snapshot();
        let ids: Vec<String> = (0..CONTAINERS).map(|n| format!("c{n}")).collect();
        let host = &host;
        // A lock file opened per call orders threads as it does processes.
        let attached: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                ids.iter().map(|id| scope.spawn(move || host.container(id, &[publish(0, 80)]))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let distinct: HashSet<_> = attached.iter().map(|(_, at)| at.ip).collect();
        assert_eq!(distinct.len(), CONTAINERS);
        for (container, at) in &attached {
            container.serve("up", "0.0.0.0:80");
            host.namespace.ask(Ipv4Addr::LOCALHOST, at.ports[0].host_port).unwrap();
        }
        thread::scope(|scope| {
            ids.iter().for_each(|id| drop(scope.spawn(move || host.detach(id))));
        });
        assert!(host.attached().is_empty());
        host.namespace.run(|| host.network.remove_all()).unwrap();
        assert_eq!(host.snapshot(), before);
    }
}

#[test]
fn asynchronous_code_may_call_too() {
    let host = Host::new(&back_ends()[0]);
    let container = Namespace::new();
    host.namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            host.network.attach("web", container.fd(), &AttachSpec::default()).unwrap();
            assert_eq!(host.network.attached().unwrap(), ["web"]);
            host.network.detach("web").unwrap();
        });
    });
}
