"""The JSON that the control routes answer with, as JSON Schema, each shape by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
ANY: Schema = {}


def maybe(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def named(name: str) -> Schema:
    """A reference to one of SHAPES."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Mapping[str, Schema] | None = None, /, **fields: Schema) -> Schema:
    """An object that has all of `fields`, perhaps those of `optional`, and in later versions more."""
    return {"type": "object", "properties": {**fields, **(optional or {})}, "required": list(fields)}


def about(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


STATE = about({"type": "string", "enum": ["stopped", "starting", "ready", "stopping", "shutdown"]}, "Of its process.")

_TOKENS = record(
    **{name: about(WHOLE, "-1: unknown.") for name in ("cache_tokens", "draft_tokens", "draft_acc_tokens")},
    input_tokens=about(WHOLE, "-1: unknown."),
    output_tokens=about(WHOLE, "-1: unknown."),
    prompt_per_second=about(NUMBER, "-1: unknown."),
    tokens_per_second=about(NUMBER, "-1: unknown."),
)

SHAPES: dict[str, Schema] = {
    "Error": record(
        src={"type": "string", "const": "llama-swap"},
        error=record(
            message=TEXT, type=TEXT, param={"type": "null"}, code=about(TEXT, "For programs, e.g. model_not_found.")
        ),
    ),
    "Done": record(msg={"type": "string", "const": "ok"}),
    "Success": record(success=FLAG),
    "Version": record(version=TEXT, commit=TEXT, build_date=TEXT),
    "Running": record(
        running=many(
            record(model=TEXT, state=STATE, cmd=TEXT, proxy=TEXT, ttl=NUMBER, name=TEXT, description=TEXT),
        )
    ),
    "ModelList": record(
        object={"type": "string", "const": "list"},
        data=many(
            record(
                {"name": TEXT, "description": TEXT},
                id=TEXT,
                object={"type": "string", "const": "model"},
                created=WHOLE,
                owned_by=TEXT,
                meta={"type": "object"},
                status=record(
                    {"failed": FLAG, "exit_code": WHOLE},
                    value={"type": "string", "enum": ["loaded", "loading", "unloaded"]},
                ),
            )
        ),
    ),
    "Models": record(
        models=many(
            record(
                {
                    "capabilities": {"type": "object"},
                    "context_length": WHOLE,
                    "removed": about(FLAG, "Not in the configuration any more; it ends when idle."),
                },
                id=TEXT,
                name=TEXT,
                description=TEXT,
                aliases=many(TEXT),
                unlisted=FLAG,
                state=STATE,
                ttl_s=about(NUMBER, "Idle seconds until it is unloaded; 0: never."),
                ttl_left_s=maybe(NUMBER),
                in_flight=COUNT,
                queued=COUNT,
                pid=maybe(WHOLE),
                cmd=TEXT,
                proxy=TEXT,
                ready_since=maybe(TIME),
                memory=record(rss_bytes=maybe(COUNT), gpu_bytes=maybe(COUNT)),
                load=record(elapsed_s=maybe(NUMBER), typical_s=about(maybe(NUMBER), "Learned from earlier loads.")),
                waiting_for=about(many(TEXT), "Models that have to drain or stop first."),
                last_error=maybe(record(message=TEXT, exit_code=maybe(WHOLE), output=maybe(TEXT), at=TIME)),
                group=TEXT,
            )
        )
    ),
    "Loaded": record({"load_s": NUMBER}, model=TEXT, state=STATE),
    "Activity": record(
        data=many(
            record(
                {"error_msg": TEXT, "metadata": {"type": "object"}},
                id=WHOLE,
                timestamp=TIME,
                model=TEXT,
                requested=about(TEXT, "The id or alias that the client used."),
                client=TEXT,
                req_path=TEXT,
                resp_content_type=TEXT,
                resp_status_code=about(WHOLE, "499: the client left first."),
                tokens=_TOKENS,
                duration_ms=NUMBER,
                ttfb_ms=maybe(NUMBER),
                queue_ms=NUMBER,
                load_ms=NUMBER,
                has_capture=FLAG,
            )
        ),
        page=WHOLE,
        limit=WHOLE,
        total=COUNT,
        total_pages=COUNT,
    ),
    "Stats": record(
        total_requests=COUNT,
        total_input_tokens=COUNT,
        total_output_tokens=COUNT,
        total_cache_tokens=COUNT,
        prompt_histogram=maybe(named("Histogram")),
        gen_histogram=maybe(named("Histogram")),
    ),
    "Histogram": record(bins=many(COUNT), min=NUMBER, max=NUMBER, binSize=NUMBER, p50=NUMBER, p95=NUMBER, p99=NUMBER),
    "Metrics": many(
        record(
            id=WHOLE,
            timestamp=TIME,
            model=TEXT,
            cache_tokens=WHOLE,
            input_tokens=WHOLE,
            output_tokens=WHOLE,
            prompt_per_second=NUMBER,
            tokens_per_second=NUMBER,
            duration_ms=NUMBER,
        )
    ),
    "Capture": record(
        {"truncated": about(FLAG, "A body was longer than what is kept.")},
        id=WHOLE,
        req_path=TEXT,
        req_headers={"type": "object"},
        req_body=about(maybe(TEXT), "Base64."),
        resp_headers=maybe({"type": "object"}),
        resp_body=about(maybe(TEXT), "Base64."),
    ),
    "Problem": record(file=TEXT, line=maybe(WHOLE), key=TEXT, message=TEXT),
    "Reload": record(
        at=TIME,
        ok=FLAG,
        changed=many(TEXT),
        added=many(TEXT),
        removed=many(TEXT),
        updated=about(many(TEXT), "Changed in what needs no new process."),
        unchanged=COUNT,
        settings=about(many(TEXT), "Other keys that changed."),
        restart_needed=about(many(TEXT), "Keys that take effect with the next start."),
        errors=many(named("Problem")),
    ),
    "Configuration": record(
        path=maybe(TEXT),
        dir=maybe(TEXT),
        text=TEXT,
        files=many(record(path=TEXT, text=TEXT)),
        effective={"type": "object"},
        warnings=many(named("Problem")),
        errors=many(named("Problem")),
        loaded_at=TIME,
        last_reload=maybe(named("Reload")),
    ),
    "Performance": record(
        enabled=FLAG,
        every_s=about(NUMBER, "Seconds between samples."),
        sys_stats=many(named("SystemSample")),
        gpu_stats=many(named("GpuSample")),
        models=many(
            record(
                timestamp=TIME,
                model=TEXT,
                cpu_percent=about(maybe(NUMBER), "100: one core."),
                rss_bytes=COUNT,
                gpu_bytes=maybe(COUNT),
            )
        ),
        marks=many(record(timestamp=TIME, model=TEXT, event={"enum": ["loaded", "unloaded", "crashed"]})),
    ),
    "SystemSample": record(
        timestamp=TIME,
        cpu_util_per_core=many(NUMBER),
        mem_total_mb=COUNT,
        mem_used_mb=COUNT,
        mem_free_mb=COUNT,
        swap_total_mb=COUNT,
        swap_used_mb=COUNT,
        load_avg_1=maybe(NUMBER),
        load_avg_5=maybe(NUMBER),
        load_avg_15=maybe(NUMBER),
        net_io=about(many(record(name=TEXT, bytes_recv=COUNT, bytes_sent=COUNT)), "Since the machine started."),
        disk_io=maybe(record(read_bytes_per_s=COUNT, write_bytes_per_s=COUNT)),
        disks=about(
            many(record(path=TEXT, total_bytes=COUNT, used_bytes=COUNT, free_bytes=COUNT)), "Those with models."
        ),
    ),
    "GpuSample": record(
        timestamp=TIME,
        id=COUNT,
        name=TEXT,
        uuid=TEXT,
        vendor=TEXT,
        temp_c=maybe(NUMBER),
        vram_temp_c=maybe(NUMBER),
        gpu_util_pct=maybe(NUMBER),
        mem_util_pct=maybe(NUMBER),
        mem_used_mb=maybe(COUNT),
        mem_total_mb=maybe(COUNT),
        fan_speed_pct=maybe(NUMBER),
        power_draw_w=maybe(NUMBER),
        unified=about(FLAG, "Its memory is the machine's."),
    ),
    "Hardware": record(
        schema_version={"const": 1},
        captured_at=TIME,
        capture=record(program=TEXT, version=TEXT),
        architecture=TEXT,
        operating_system=record(family=TEXT, name=TEXT, kernel=TEXT),
        environment=record(container=maybe(TEXT), wsl=FLAG),
        cpu=record(name=TEXT, cores=maybe(COUNT), threads=COUNT),
        memory=record(capacity_bytes=COUNT),
        accelerators=many(
            record(
                id=COUNT,
                vendor=TEXT,
                name=TEXT,
                uuid=TEXT,
                driver=maybe(TEXT),
                memory_bytes=maybe(COUNT),
                unified=FLAG,
            )
        ),
    ),
}
