// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrNotRunning says that no supervisor has the folder: nothing of the cluster runs.
var ErrNotRunning = errors.New("the cluster is not running")

// Client talks to the supervisor of a folder.
type Client struct {
	dir  Dir
	http *http.Client
}

// NewClient makes a client. Whether a supervisor is there shows with the first call.
func NewClient(dir Dir) *Client {
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dir.dial(ctx) },
		DisableKeepAlives: true,
	}}}
}

// maxAnswer is that of an answer in bytes.
const maxAnswer = 4 << 20

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	response, err := c.send(ctx, method, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("ask the cluster's supervisor: %w", err)
	case response.StatusCode == http.StatusNotFound, response.StatusCode == http.StatusConflict:
		return errors.New(strings.TrimSpace(string(data)))
	case response.StatusCode >= 300:
		return fmt.Errorf("the cluster's supervisor: %s", strings.TrimSpace(string(data)))
	case into == nil:
		return nil
	}
	return json.Unmarshal(data, into)
}

func (c *Client) send(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		// One that is killed may have taken the connection, and answers no more.
		if notThere(err) || ctx.Err() == nil && !c.dir.Running() {
			return nil, ErrNotRunning
		}
		return nil, fmt.Errorf("ask the cluster's supervisor: %w", err)
	}
	return response, nil
}

// Status asks how the machines are.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	if err := c.call(ctx, http.MethodGet, "/v1/status", &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Start switches a machine on.
func (c *Client) Start(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(name)+"/start", nil)
}

// Stop cuts a machine's power, and returns when nothing is left of it but its files.
func (c *Client) Stop(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, "/v1/machines/"+url.PathEscape(name)+"/stop", nil)
}

// Reload makes the machines be those of the folder's spec.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil)
}

// Capture copies every frame on the cluster's network to w as a pcap file, until ctx is
// done, which is no error. ready is called once no frame is missed any more.
func (c *Client) Capture(ctx context.Context, w io.Writer, ready func()) error {
	response, err := c.send(ctx, http.MethodGet, "/v1/capture")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the cluster's supervisor: status %d", response.StatusCode)
	}
	ready()
	_, err = io.Copy(w, response.Body)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("capture: the cluster ended, or frames came faster than they were taken: what was written is whole up to its end")
	}
	return err
}

// Down asks for the end of everything. It does not wait for it.
func (c *Client) Down(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/down", nil)
}

// Wait returns when the supervisor has ended, or with the context's error.
func (c *Client) Wait(ctx context.Context) error {
	response, err := c.send(ctx, http.MethodGet, "/v1/wait")
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return ctx.Err()
}

// Console connects to a machine's console, both ways.
func (c *Client) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	return c.upgrade(ctx, "/v1/machines/"+url.PathEscape(name)+"/console")
}

// Dial connects to a TCP port of a machine, over the cluster's network. The machine sees
// its gateway.
func (c *Client) Dial(ctx context.Context, name string, port uint16) (net.Conn, error) {
	return c.upgrade(ctx, fmt.Sprintf("/v1/machines/%s/dial?port=%d", url.PathEscape(name), port))
}

// upgrade makes a connection be one to something else than the supervisor.
func (c *Client) upgrade(ctx context.Context, path string) (*conversation, error) {
	conn, err := c.dir.dial(ctx)
	if err != nil {
		if notThere(err) {
			err = ErrNotRunning
		}
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	request, err := http.NewRequest(http.MethodPost, "http://supervisor"+path, nil)
	if err == nil {
		err = request.Write(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, request)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask the cluster's supervisor: %w", err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return &conversation{Reader: r, Conn: conn}, nil
}

// conversation reads what was buffered with the answer first.
type conversation struct {
	io.Reader
	net.Conn
}

func (c *conversation) Read(p []byte) (int, error) { return c.Reader.Read(p) }
