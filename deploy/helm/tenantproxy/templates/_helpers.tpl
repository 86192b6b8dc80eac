{{- define "tenantproxy.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "tenantproxy.selector" -}}
app.kubernetes.io/name: tenantproxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tenantproxy.labels" -}}
{{ include "tenantproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "tenantproxy.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tenantproxy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tenantproxy.containerSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* Files of root that the group 10001 may read, and no other. */ -}}
{{- define "tenantproxy.volumes" -}}
- name: config
  configMap:
    name: {{ include "tenantproxy.name" . }}
- name: secrets
  secret:
    secretName: {{ .Values.secretName }}
    defaultMode: 0440
{{- with .Values.tlsSecretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.caConfigMapName }}
- name: ca
  configMap:
    name: {{ . }}
{{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- end -}}

{{- define "tenantproxy.mounts" -}}
- name: config
  mountPath: /etc/tenantproxy
  readOnly: true
- name: secrets
  mountPath: /run/secrets/tenantproxy
  readOnly: true
{{- if .Values.tlsSecretName }}
- name: tls
  mountPath: /run/tenantproxy/tls
  readOnly: true
{{- end }}
{{- if .Values.caConfigMapName }}
- name: ca
  mountPath: /run/tenantproxy/ca
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- define "tenantproxy.container" -}}
name: tenantproxy
image: {{ include "tenantproxy.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - serve
  - --config=/etc/tenantproxy/tenantproxy.toml
  - --drain-timeout={{ .Values.drain.timeout }}
ports:
  {{- if not .Values.sidecar.container }}
  - name: pg
    containerPort: {{ .Values.ports.pg }}
  {{- if .Values.http.enabled }}
  - name: http
    containerPort: {{ .Values.ports.http }}
  {{- end }}
  {{- end }}
  - name: admin
    containerPort: {{ .Values.ports.admin }}
{{- /* Alive while it waits for its database, and not ready: that is no reason to start it again. */}}
startupProbe:
  httpGet:
    path: {{ ternary "/readyz" "/livez" (not (empty .Values.sidecar.container)) }}
    port: admin
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ ternary 150 30 (not (empty .Values.sidecar.container)) }}
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "tenantproxy.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "tenantproxy.mounts" . | nindent 2 }}
{{- end -}}

{{- define "tenantproxy.grace" -}}
{{- $own := add .Values.drain.delay .Values.drain.timeout 5 -}}
{{- if .Values.sidecar.container -}}{{ add $own .Values.drain.application }}{{- else -}}{{ add $own .Values.drain.preStop }}{{- end -}}
{{- end -}}
