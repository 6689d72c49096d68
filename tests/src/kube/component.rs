//! What runs in a cluster: for each component its program, its arguments and its settings, all
//! with the paths and addresses of the inside.

use std::{fs, io, path::Path};

use super::place::Place;

/// Address of the first node, where the API server and the name server also listen.
pub(crate) const API_IP: &str = "10.244.0.1";
pub(crate) const API_PORT: u16 = 6443;
/// Answers 200 once the name server has read the cluster's Services.
pub(crate) const DNS_READY: &str = "127.0.0.1:8181";

/// This harness, which the bring-up puts there.
const VOLUMES_PROGRAM: &str = "/run/shoal/shoal-kube";

const BRIDGE: &str = include_str!("../../kube/etc/bridge.conflist");
const CONTAINERD: &str = include_str!("../../kube/etc/containerd.toml");
const KUBELET: &str = include_str!("../../kube/etc/kubelet.yaml");
const PROXY: &str = include_str!("../../kube/etc/kube-proxy.yaml");
const COREFILE: &str = include_str!("../../kube/etc/Corefile");
const SANDBOX: &str = include_str!("../../kube/sandbox.sh");

/// What a cluster is made from, beside programs and their arguments.
pub(crate) const TEMPLATES: [&str; 6] = [BRIDGE, CONTAINERD, KUBELET, PROXY, COREFILE, SANDBOX];

/// How much of Kubernetes a test needs; each tier has what those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Tier {
    /// etcd and the API server: objects, schemas, watches. Nothing acts on an object.
    Api,
    /// Also the controllers and the scheduler: owners, StatefulSets to Pod objects, budgets.
    Kcm,
    /// Also a node with pods, Services and names.
    Node,
    /// Also a second node.
    Nodes2,
}

impl Tier {
    /// Also the name of the cluster that tests of this tier share.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Kcm => "kcm",
            Self::Node => "node",
            Self::Nodes2 => "nodes2",
        }
    }

    pub fn nodes(self) -> &'static [Node] {
        match self {
            Self::Api | Self::Kcm => &[],
            Self::Node => &[Node::One],
            Self::Nodes2 => &Node::ALL,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    One,
    Two,
}

impl Node {
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    pub fn name(self) -> &'static str {
        match self {
            Self::One => "node1",
            Self::Two => "node2",
        }
    }

    pub fn ip(self) -> &'static str {
        match self {
            Self::One => API_IP,
            Self::Two => "10.244.1.1",
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    fn subnet(self) -> &'static str {
        match self {
            Self::One => "10.244.0.0/24",
            Self::Two => "10.244.1.0/24",
        }
    }

    /// Both kubelets share the network of the cluster.
    pub(crate) fn health_port(self) -> &'static str {
        match self {
            Self::One => "10248",
            Self::Two => "10258",
        }
    }
}

/// One process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Containerd(Node),
    Kubelet(Node),
    Proxy,
    Dns,
    /// Our own, which makes volumes.
    Volumes,
}

/// How long a container that ended again waits before it is started again, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// One second, for suites that end a container again and again.
    Short,
    /// As everywhere: 10 s, doubled up to 5 min.
    Default,
}

impl Component {
    /// Those of a tier, in the order of their start: what stands before `ApiServer` and itself
    /// need nothing of it.
    pub(crate) fn of(tier: Tier) -> Vec<Self> {
        let mut all = vec![Self::Etcd];
        all.extend(tier.nodes().iter().map(|&node| Self::Containerd(node)));
        all.push(Self::ApiServer);
        if tier >= Tier::Kcm {
            all.extend([Self::ControllerManager, Self::Scheduler, Self::Volumes]);
        }
        all.extend(tier.nodes().iter().map(|&node| Self::Kubelet(node)));
        if tier >= Tier::Node {
            all.extend([Self::Proxy, Self::Dns]);
        }
        all
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Containerd(node) => format!("containerd-{}", node.number()),
            Self::Kubelet(node) => format!("kubelet-{}", node.number()),
            Self::Etcd
            | Self::ApiServer
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Proxy
            | Self::Dns
            | Self::Volumes => self.program().to_owned(),
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Containerd(_) => "containerd",
            Self::Kubelet(_) => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::Dns => "coredns",
            Self::Volumes => "volumes",
        }
    }

    /// Program and arguments.
    pub(crate) fn words(self, tier: Tier) -> Vec<String> {
        let arguments = match self {
            // Nobody's data: a cluster is made anew after a power cut.
            Self::Etcd => "--data-dir=/run/shoal/etcd --unsafe-no-fsync".to_owned(),
            Self::ApiServer => api_server(tier),
            Self::ControllerManager => controller_manager(),
            Self::Scheduler => {
                format!("{} --leader-elect=false", clients("kube-scheduler"))
            }
            Self::Containerd(node) => {
                format!("--config=/run/shoal/etc/containerd-{}.toml", node.number())
            }
            Self::Kubelet(node) => kubelet(node),
            Self::Proxy => "--config=/run/shoal/etc/kube-proxy.yaml".to_owned(),
            Self::Dns => "-conf /run/shoal/etc/Corefile".to_owned(),
            Self::Volumes => return vec![VOLUMES_PROGRAM.to_owned(), "volumes".to_owned()],
        };
        let arguments = arguments.split_whitespace().map(str::to_owned);
        [self.program().to_owned()].into_iter().chain(arguments).collect()
    }
}

fn api_server(tier: Tier) -> String {
    // Where nothing makes service accounts, no pod object could be created.
    let without = if tier == Tier::Api { "--disable-admission-plugins=ServiceAccount" } else { "" };
    format!(
        "--etcd-servers=http://127.0.0.1:2379 --advertise-address={API_IP} --bind-address={API_IP} \
         --secure-port={API_PORT} --service-cluster-ip-range=10.96.0.0/16 \
         --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction {without} \
         --allow-privileged=true --kubelet-preferred-address-types=InternalIP --profiling=false \
         --client-ca-file=/run/shoal/pki/ca.crt \
         --tls-cert-file=/run/shoal/pki/apiserver.crt \
         --tls-private-key-file=/run/shoal/pki/apiserver.key \
         --kubelet-certificate-authority=/run/shoal/pki/ca.crt \
         --kubelet-client-certificate=/run/shoal/pki/apiserver-kubelet.crt \
         --kubelet-client-key=/run/shoal/pki/apiserver-kubelet.key \
         --service-account-issuer=https://kubernetes.default.svc.cluster.local \
         --service-account-key-file=/run/shoal/pki/accounts.pub \
         --service-account-signing-key-file=/run/shoal/pki/accounts.key"
    )
}

fn controller_manager() -> String {
    // A node counts as lost after 16 s, not 50: suites wait for it.
    format!(
        "{} --leader-elect=false --use-service-account-credentials=true \
         --service-account-private-key-file=/run/shoal/pki/accounts.key \
         --root-ca-file=/run/shoal/pki/ca.crt \
         --cluster-signing-cert-file=/run/shoal/pki/ca.crt \
         --cluster-signing-key-file=/run/shoal/pki/ca.key \
         --service-cluster-ip-range=10.96.0.0/16 \
         --node-monitor-period=2s --node-monitor-grace-period=16s",
        clients("kube-controller-manager")
    )
}

/// As who a control loop speaks to the API server, and faster than the default 20 a second.
fn clients(user: &str) -> String {
    let file = format!("/run/shoal/pki/{user}.kubeconfig");
    format!(
        "--kubeconfig={file} --authentication-kubeconfig={file} --authorization-kubeconfig={file} \
         --bind-address=127.0.0.1 --kube-api-qps=300 --kube-api-burst=600"
    )
}

fn kubelet(node: Node) -> String {
    let (n, name, ip) = (node.number(), node.name(), node.ip());
    format!(
        "--config=/run/shoal/etc/kubelet-{n}.yaml --kubeconfig=/run/shoal/pki/kubelet-{n}.kubeconfig \
         --hostname-override={name} --node-ip={ip} --root-dir=/run/shoal/kubelet-{n} \
         --cert-dir=/run/shoal/kubelet-{n}/pki"
    )
}

/// Writes the settings of all components.
pub(crate) fn write_settings(place: &Place) -> io::Result<()> {
    let etc = place.directory().join("etc");
    for node in Node::ALL {
        let n = node.number();
        let cni = etc.join(format!("cni-{n}"));
        fs::create_dir_all(&cni)?;
        let bridge = filled(BRIDGE, node);
        fs::write(cni.join("bridge.conflist"), bridge)?;
        let containerd = filled(CONTAINERD, node);
        fs::write(etc.join(format!("containerd-{n}.toml")), containerd)?;
        write_kubelet(place, node, Backoff::Short)?;
    }
    fs::write(etc.join("kube-proxy.yaml"), PROXY)?;
    // Names of the world are not looked up: pods reach nothing of it.
    fs::write(etc.join("resolv.conf"), "")?;
    write_corefile(&etc, None)
}

pub(crate) fn write_kubelet(place: &Place, node: Node, backoff: Backoff) -> io::Result<()> {
    let backoff = match backoff {
        Backoff::Short => "crashLoopBackOff: {maxContainerRestartPeriod: 1s}",
        Backoff::Default => "",
    };
    let text =
        filled(KUBELET, node).replace("{cgroup}", &place.cgroup()).replace("{backoff}", backoff);
    fs::write(place.directory().join(format!("etc/kubelet-{}.yaml", node.number())), text)
}

/// With the seconds for which answers are kept, also those that there is no such name.
pub(crate) fn write_corefile(etc: &Path, cache: Option<u32>) -> io::Result<()> {
    let cache = cache.map(|seconds| format!("cache {seconds}")).unwrap_or_default();
    let text = COREFILE.replace("{cache}", &cache);
    fs::write(etc.join("Corefile"), text)
}

fn filled(template: &str, node: Node) -> String {
    template
        .replace("{n}", &node.number().to_string())
        .replace("{node}", node.name())
        .replace("{ip}", node.ip())
        .replace("{subnet}", node.subnet())
        .replace("{healthz}", node.health_port())
}
