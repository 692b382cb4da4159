// SPDX-License-Identifier: Apache-2.0

// Command keyservice serves data keys within the cluster. It only wires.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/constellation-os/constellation/keys/kubestore"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/pkcs11"
	"github.com/constellation-os/constellation/services/keyservice"
	"github.com/constellation-os/constellation/services/keyservice/hardening"
)

func main() {
	path := flag.String("config", "/etc/constellation/keyservice.json", "configuration file")
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *path)
	stop()
	if err != nil {
		slog.Error("keyservice failed", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	if err := hardening.NoDumps(); err != nil {
		return err
	}
	config, err := keyservice.LoadConfig(path)
	if err != nil {
		return err
	}
	service, err := keyservice.Listen(ctx, config, managed.Backends{
		KMS:    map[string]func(context.Context, string) (managed.KMS, error){pkcs11.Scheme: pkcs11.Open},
		Stores: map[string]func(context.Context, string) (managed.Store, error){kubestore.Scheme: kubestore.Open},
	}, slog.Default())
	if err != nil {
		return err
	}
	slog.Info("keyservice listens", "address", service.Address(), "http", service.HTTPAddress())
	return service.Serve(ctx)
}
