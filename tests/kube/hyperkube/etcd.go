package main

import (
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcdCommand runs a single etcd member until a signal ends it.
func etcdCommand() *cobra.Command {
	var dir, client, peer string
	var noFsync bool
	command := &cobra.Command{
		Use:          "etcd",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			config := embed.NewConfig()
			clientURL, err := url.Parse(client)
			if err != nil {
				return err
			}
			peerURL, err := url.Parse(peer)
			if err != nil {
				return err
			}
			config.Dir, config.UnsafeNoFsync = dir, noFsync
			config.LogLevel, config.LogOutputs = "warn", []string{"stderr"}
			// Zero without the flags of etcd's own command: a warning for each request.
			config.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
			config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
			config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
			config.InitialCluster = config.InitialClusterFromName(config.Name)
			server, err := embed.StartEtcd(config)
			if err != nil {
				return err
			}
			defer server.Close()
			signals := make(chan os.Signal, 1)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
			select {
			case <-signals:
				return nil
			case err := <-server.Err():
				return err
			}
		},
	}
	flags := command.Flags()
	flags.StringVar(&dir, "data-dir", "", "where the data is kept")
	// Required, so that a stray `etcd --version` starts no server.
	_ = command.MarkFlagRequired("data-dir")
	flags.BoolVar(&noFsync, "unsafe-no-fsync", false, "lose data at a power cut, for speed")
	flags.StringVar(&client, "listen-client-url", "http://127.0.0.1:2379", "where clients connect")
	flags.StringVar(&peer, "listen-peer-url", "http://127.0.0.1:2380", "where peers connect")
	return command
}
