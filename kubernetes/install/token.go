// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
)

// Public registries want a token even of those who have no account: the OCI
// Distribution Specification leaves it to them, and all do it in the way of
// Docker's ("Token Authentication Specification").

const maxTokenAnswer = 64 << 10

var challengeParameter = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// token is what a registry gave to a stranger.
type token struct {
	mu    sync.Mutex
	value string
}

func (t *token) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value
}

func (t *token) set(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value = value
}

// authenticate gets a token as the registry's challenge says. There are no credentials to give away.
func (s *source) authenticate(ctx context.Context, challenge string) error {
	parameters := map[string]string{}
	for _, match := range challengeParameter.FindAllStringSubmatch(challenge, 8) {
		parameters[match[1]] = match[2]
	}
	realm, err := url.Parse(parameters["realm"])
	if err != nil || (realm.Scheme != "https" && realm.Scheme != s.base.Scheme) || realm.Host == "" {
		return fmt.Errorf("%w: it wants credentials", ErrStatus)
	}
	query := realm.Query()
	for _, name := range []string{"service", "scope"} {
		if parameters[name] != "" {
			query.Set(name, parameters[name])
		}
	}
	realm.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: no token", ErrStatus)
	}
	data, err := readAll(response.Body, maxTokenAnswer)
	if err != nil {
		return err
	}
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Token+answer.Access == "" {
		return fmt.Errorf("%w: no token", ErrStatus)
	}
	if answer.Token == "" {
		answer.Token = answer.Access
	}
	s.token.set(answer.Token)
	return nil
}
