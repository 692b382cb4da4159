// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command diskmapper keeps the node's state disk and serves it on a unix socket; see package diskmapper. The disk stays
// open when the service ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/constellation-os/constellation/services/diskmapper"
	"github.com/constellation-os/constellation/services/diskmapper/client"
)

// patience is how long the disk may take to appear after the service was asked for it.
const patience = 30 * time.Second

func main() {
	socket := flag.String("socket", client.Socket, "the unix socket to serve")
	serial := flag.String("serial", diskmapper.Serial, "the state disk's serial number")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *socket, *serial); err != nil {
		fmt.Fprintf(os.Stderr, "diskmapper: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, socket, serial string) error {
	// One that an earlier run left.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	syscall.Umask(0o177)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	finder := &diskmapper.Finder{Blocks: os.DirFS("/sys/class/block"), Serial: serial, Patience: patience}
	server := diskmapper.New(finder, log)
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS=Serving "+socket); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	go watchdog(ctx)
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

// watchdog tells systemd, if it wants to know, that the service lives.
func watchdog(ctx context.Context) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) // systemd acts when it hears nothing
		}
	}
}
