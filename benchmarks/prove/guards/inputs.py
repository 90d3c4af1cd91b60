"""Guards of what comes in besides bundles: pictures, names, configuration, secrets, other texts."""

from benchmarks.prove.guards.guard import NEVER, Guard

_CONFIG, _CAMERA, _PAYLOAD, _WIRE = (
    "config",
    "config_source",
    "sparkplug.payload",
    "sparkplug.wire",
)

IMAGES = {
    "bytes of an image": Guard("image", "if len(data) > MAX_BYTES:", NEVER),
    "formats of images": Guard(
        "image",
        'raise InputError("not a PNG or JPEG image (by its first bytes)", _USE_8_BIT)',
        'return Header("PNG", 1, 1)',
    ),
    "zero size": Guard("image", "if header.width < 1 or header.height < 1:", NEVER),
    "pixels of an image": Guard("image", "if header.width * header.height > max_pixels:", NEVER),
    "one size of an image": Guard(
        "image", "if image.size != (header.width, header.height):", NEVER
    ),
    "frame of a JPEG": Guard(
        "image",
        'raise InputError("JPEG without a frame header (truncated?)", "replace the file")',
        'return Header("JPEG", 1, 1)',
    ),
    "segments of a JPEG": Guard("image", "_MOST_SEGMENTS = 4096", "_MOST_SEGMENTS = 2**30"),
    "end of pixels": Guard(
        "image", "        OSError,\n        SyntaxError,", "        SyntaxError,"
    ),
    "errors of a decoder": Guard("image", "        SyntaxError,\n        ValueError,", ""),
    "strips of an image": Guard("image", "_STRIP_PIXELS = 2**21", "_STRIP_PIXELS = 2**40"),
    "number of frames": Guard("image", 'if getattr(image, "n_frames", 1) > 1:', NEVER),
    "modes of images": Guard(
        "image", 'if image.mode not in {"1", "L", "P", "RGB", "RGBA", "LA"}:', NEVER
    ),
    "transparency": Guard("image", "if int(rgba[..., 3].min()) < 255:", NEVER),
    "retained images": Guard(
        "source.mqtt_images", 'if incoming.retained and self._config.retained == "refuse":', NEVER
    ),
    "pixels of images by MQTT": Guard(
        "source.mqtt_images", "if header.width * header.height > self._config.max_pixels:", NEVER
    ),
    "headers of images by MQTT": Guard(
        "source.mqtt_images", "except InputError as", "except KeyError as"
    ),
    "bytes of a file": Guard("source.folder", "if len(content) > max_bytes:", NEVER),
    "plain files of a folder": Guard(
        "source.files", "if stat.S_ISREG(info.st_mode) else None", "if info else None"
    ),
    "pipes of a folder": Guard("source.files", "os.O_RDONLY | os.O_NONBLOCK", "os.O_RDONLY"),
}

NAMES = {
    "signs of a level": Guard(
        "topics", 'if any(c in "+#/$" or not c.isprintable() for c in value):', NEVER
    ),
    "size of a level": Guard("topics", "if not 1 <= size <= MAX_LEVEL_BYTES:", NEVER),
    "levels of a topic": Guard("topics", "if len(levels) > MAX_TOPIC_LEVELS:", NEVER),
    "NUL in a path": Guard("topics", 'if "\\0" in value:', NEVER),
    "names of sources": Guard(_CONFIG, 'check_level(f"sources[{at}].name", source.name)', "pass"),
    "twice the same source": Guard(_CONFIG, "if source.name in names:", NEVER),
    "topic of a source": Guard(_CAMERA, 'check_topic(f"{field}.topic", section.topic)', "pass"),
    "ids of Sparkplug": Guard(_CONFIG, 'check_level(f"mqtt.sparkplug.{field}", value)', "pass"),
    "UTF-8 of a topic": Guard("report.mqtt", "except UnicodeDecodeError:", "except KeyError:"),
    "size of a message": Guard(
        "report.mqtt", "if len(incoming.payload) > subscription.max_bytes:", NEVER
    ),
    "errors of a listener": Guard("report.mqtt", "except Exception:", "except KeyError:"),
}

CONFIGURATION = {
    "size of a configuration": Guard(_CONFIG, "if len(data) > MAX_CONFIG_BYTES:", NEVER),
    "form of a configuration": Guard(
        _CONFIG,
        "except (ValueError, msgspec.MsgspecError, RecursionError) as",
        "except (KeyError, RecursionError) as",
    ),
    "depth of a configuration": Guard(
        _CONFIG, "msgspec.MsgspecError, RecursionError", "msgspec.MsgspecError"
    ),
    "keys that a configuration has": Guard(
        _CONFIG,
        "class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True)",
        "class AgentConfig(Struct, frozen=True)",
    ),
    "choices of a configuration": Guard(
        _CONFIG, 'runtime: Literal["ort", "trt", "auto"]', "runtime: str"
    ),
    "ranges of a configuration": Guard(_CONFIG, "Meta(ge=1, le=65535)", "Meta(ge=1)"),
    "address of the page": Guard(_CONFIG, "ipaddress.ip_address(value)", "pass"),
    "schemes of a camera": Guard(_CAMERA, "if found is None or found[1] not in SCHEMES:", NEVER),
    "devices of a camera": Guard(_CAMERA, "not _DEVICE.match(camera.device) or ", ""),
    "ways out of /dev": Guard(_CAMERA, ' or ".." in camera.device', ""),
    "one of a camera's three": Guard(_CAMERA, "if len(given) != 1:", NEVER),
    "names of the page": Guard(
        "health.server",
        "except ValueError:\n        return False",
        "except ValueError:\n        pass",
    ),
    "form of a Host header": Guard(
        "health.server",
        "if match is None:",
        "if match is None:\n        return True\n    if False:",
    ),
}

SECRETS = {
    "passwords in a URL": Guard(_CAMERA, 'if "@" in found[2]:', NEVER),
    "passwords in a pipeline": Guard(
        _CAMERA,
        'if camera.pipeline is not None and re.search(r"://[^/\\s]*@", camera.pipeline):',
        NEVER,
    ),
    "user name of a camera": Guard(
        _CAMERA,
        "if camera.username is None and (camera.password_file or camera.password_env):",
        NEVER,
    ),
    "user name of a broker": Guard(
        _CONFIG, "if mqtt.username is None and (mqtt.password_file or mqtt.password_env):", NEVER
    ),
    "one place of a password": Guard(
        _CONFIG, "if mqtt.password_file is not None and mqtt.password_env is not None:", NEVER
    ),
    "variable of a password": Guard("secret", "if not value:", NEVER),
    "cause of a password's error": Guard(
        "secret", '"write the password into it") from None', '"write the password into it")'
    ),
    "size of a password": Guard("secret", "if not 1 <= len(data) <= MAX_SECRET_BYTES:", NEVER),
    "redaction": Guard("source.target", 'text = text.replace(secret, "***")', "pass"),
    "environment of a reader": Guard(
        "source.reader_process", "if name.startswith(_KEPT_VARIABLES)", "if True"
    ),
    "one line of an error": Guard(
        "console", 'sys.stderr.write(one_line(text) + "\\n")', 'sys.stderr.write(text + "\\n")'
    ),
    "one line of the log": Guard(
        "cli", "console.one_line(super().format(record))", "super().format(record)"
    ),
    "one line of an alert": Guard("report.payload", "one_line(reason)[:MAX_REASON]", "reason"),
}

OTHERS = {
    "size of Sparkplug": Guard(_PAYLOAD, "if len(data) > MAX_BYTES:", NEVER),
    "number of metrics": Guard(_PAYLOAD, "if len(metrics) == MAX_METRICS:", NEVER),
    "kinds of values": Guard(_PAYLOAD, "if field.wire != _WIRES[kind]:", NEVER),
    "numbers of Sparkplug": Guard(_PAYLOAD, "if not isinstance(field.value, int):", NEVER),
    "texts of Sparkplug": Guard(_PAYLOAD, "if not isinstance(field.value, bytes):", NEVER),
    "UTF-8 of Sparkplug": Guard(_PAYLOAD, "except UnicodeDecodeError as", "except KeyError as"),
    "numbers of fields": Guard(_WIRE, "if not 1 <= number <= _MAX_FIELD:", NEVER),
    "wire of Sparkplug": Guard(_WIRE, 'raise WireError(f"wire type {wire}")', "size = 0"),
    "end of Sparkplug's fields": Guard(_WIRE, "if size > len(data) - at:", NEVER),
    "end of Sparkplug's numbers": Guard(_WIRE, "if at >= len(data):", NEVER),
    "bits of a number": Guard(_WIRE, "if value >= 2**64:", NEVER),
    "magic of a reader": Guard(
        "source.wire",
        "if magic != _MAGIC or length > MAX_TEXT_BYTES or kind not in set(Kind):",
        NEVER,
    ),
    "time of a reader": Guard("source.wire", "if not 0 <= captured_s < _FAR_FUTURE_S:", NEVER),
}
