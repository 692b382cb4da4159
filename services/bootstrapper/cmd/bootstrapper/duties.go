// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/constellation-os/constellation/kubernetes/servingcert"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
	"github.com/constellation-os/constellation/services/bootstrapper/node"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

const (
	lookEvery  = 2 * time.Second
	renewEvery = 12 * time.Hour
	retryEvery = time.Minute
)

// localhost is where this node's etcd listens, too.
const localhost = "127.0.0.1"

// duties are what a control-plane node's bootstrapper does for as long as the node
// lives: it approves the certificate of the node's own kubelet, whose name and address
// it knows, renews KeyService's, and takes nodes that leave the control plane out of etcd.
func duties(ctx context.Context, j *journal.Journal, log *slog.Logger) {
	for !j.Reached(api.Step_STEP_API_SERVER) {
		if !pause(ctx, lookEvery) {
			return
		}
	}
	go renew(ctx, log)
	go farewell(ctx, j.Node(), log)
	for ctx.Err() == nil {
		if err := approve(ctx, j.Node(), log); err != nil {
			log.Warn("kubelet's certificate is not approved", "error", err)
		}
		pause(ctx, lookEvery)
	}
}

func approve(ctx context.Context, name string, log *slog.Logger) error {
	config, err := node.LocalConfig()
	if err != nil {
		return err
	}
	address, err := node.Address()
	if err != nil {
		return err
	}
	config.Timeout = 0 // requests are waited for
	return servingcert.Run(ctx, config, servingcert.One(name, address), log)
}

func renew(ctx context.Context, log *slog.Logger) {
	for pause(ctx, renewEvery) {
		if outcome, err := kubernetes.Certify(); err != nil {
			log.Error("KeyService's certificate is not renewed", "error", err)
		} else if outcome == steps.Done {
			log.Info("KeyService's certificate was renewed")
		}
	}
}

func farewell(ctx context.Context, name string, log *slog.Logger) {
	for {
		leavers, err := node.LocalLeavers()
		if err == nil {
			etcd := &node.Etcd{Root: root, Node: name, Address: node.Address, Others: []string{localhost}}
			(&node.Farewell{Node: name, Leavers: leavers, Remove: etcd.Remove, Log: log}).Run(ctx)
			return
		}
		log.Warn("who leaves the control plane cannot be found out", "error", err)
		if !pause(ctx, retryEvery) {
			return
		}
	}
}

// pause returns false if the service ends meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
